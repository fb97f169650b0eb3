package network

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func load(t *testing.T, dir, r string) *addresses {
	t.Helper()
	a, err := loadAddresses(dir, netip.MustParsePrefix(r))
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func give(t *testing.T, a *addresses, uid string) string {
	t.Helper()
	ip, err := a.give(uid)
	if err != nil {
		t.Fatal(err)
	}
	return ip.String()
}

func TestAddressesAreKept(t *testing.T) {
	dir := t.TempDir()
	a := load(t, dir, "10.42.3.0/24")
	got := []string{give(t, a, "one"), give(t, a, "two"), give(t, a, "one")}
	if diff := cmp.Diff([]string{"10.42.3.2", "10.42.3.3", "10.42.3.2"}, got); diff != "" {
		t.Error(diff)
	}
	// An attempt that was cut off leaves a file that means nothing.
	if err := os.WriteFile(filepath.Join(dir, "begun-three"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	again := load(t, dir, "10.42.3.0/24")
	got = []string{give(t, again, "two"), give(t, again, "one"), give(t, again, "three")}
	if diff := cmp.Diff([]string{"10.42.3.3", "10.42.3.2", "10.42.3.4"}, got); diff != "" {
		t.Error(diff)
	}
}

func TestFreedAddressRests(t *testing.T) {
	a := load(t, t.TempDir(), "10.42.3.0/29") // pods get .2 to .6
	for i := range 5 {
		give(t, a, fmt.Sprint(i))
	}
	if ip, err := a.give("more"); err == nil {
		t.Errorf("a full range gave %s", ip)
	}
	for _, uid := range []string{"3", "0"} {
		if err := a.takeBack(uid); err != nil {
			t.Fatal(err)
		}
	}
	got := []string{give(t, a, "a"), give(t, a, "b")}
	if diff := cmp.Diff([]string{"10.42.3.2", "10.42.3.5"}, got); diff != "" {
		t.Error(diff)
	}
	a = load(t, t.TempDir(), "10.42.3.0/29")
	first := give(t, a, "x")
	if err := a.takeBack("x"); err != nil {
		t.Fatal(err)
	}
	if second := give(t, a, "y"); second == first {
		t.Errorf("%s was given out again at once", first)
	}
}

func TestRangeMustHaveRoom(t *testing.T) {
	for _, r := range []string{"10.42.0.0/30", "fd00::/64"} {
		if _, err := loadAddresses(t.TempDir(), netip.MustParsePrefix(r)); err == nil {
			t.Errorf("%s was taken", r)
		}
	}
}

func TestUIDMustBeAFileName(t *testing.T) {
	for _, uid := range []string{"", ".", "..", "a/b", "../x"} {
		if checkUID(uid) == nil {
			t.Errorf("%q was taken", uid)
		}
	}
}
