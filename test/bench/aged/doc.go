// Command aged measures what age costs: a log with a long past behind it, its
// updates of random old objects, and how long "rutter up" takes to serve it
// after an orderly end and after a kill. deploy/bench.sh runs it; docs/bench.md
// says what it found.
package main
