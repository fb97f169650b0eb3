// Package clientgo holds the API server to what the official Go client sends
// and expects: protobuf bodies, informers that begin with a watch, discovery,
// apply, scale. It has no code, only tests.
package clientgo
