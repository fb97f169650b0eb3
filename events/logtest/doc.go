// Package logtest is what every events.Log must pass. An implementation's test
// calls Run with a way to open a new, empty log; faults that only some logs
// can have (a purge, a server that restarts, an answer that is lost) are its
// own to provide.
package logtest
