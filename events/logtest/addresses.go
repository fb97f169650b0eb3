package logtest

import (
	"fmt"
	"math/rand/v2"
	"net"
	"testing"
)

// Addresses returns n addresses, each another, for servers that a test starts
// later, or stops and starts again. Their host is one of the loopback's that
// nobody connects from, and that no other test listens on: so nobody takes the
// port of a server that does not run.
func Addresses(t testing.TB, n int) []string {
	t.Helper()
	host := fmt.Sprintf("127.1.%d.%d", rand.IntN(256), 1+rand.IntN(254))
	all := make([]string, n)
	for i := range all {
		l, err := net.Listen("tcp", host+":0")
		if err != nil {
			t.Fatal(err)
		}
		all[i] = l.Addr().String()
		defer l.Close() // not before, for the next would perhaps get the same port
	}
	return all
}
