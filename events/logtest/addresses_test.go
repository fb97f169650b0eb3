package logtest

import "testing"

// TestAddresses: of the servers that get them, none takes another's.
func TestAddresses(t *testing.T) {
	for range 500 {
		seen := map[string]bool{}
		for _, one := range Addresses(t, 16) {
			if seen[one] {
				t.Fatalf("%s is given twice", one)
			}
			seen[one] = true
		}
	}
}
