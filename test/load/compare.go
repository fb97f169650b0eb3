package load

import (
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"time"
)

const (
	// compareEach is how many connections a turn has: few, so that both meet the
	// same machine, which others use as well.
	compareEach = 200
	// reachTimeout bounds how long an address may take to answer at all.
	reachTimeout = 30 * time.Second
)

// Comparison is how fast new connections to two addresses are made, used for
// one answer, and ended, one after the other.
type Comparison struct {
	Direct  float64 `json:"direct"`  // connections per second, the median of the rounds
	Service float64 `json:"service"` // likewise
	Ratio   float64 `json:"ratio"`   // service ÷ direct, the median of the rounds' ratios
}

// Compare makes connections to two addresses where ServeShort answers, in turns,
// and so for some rounds. A round before them does not count.
func Compare(direct, service string, rounds int) (c Comparison, err error) {
	addresses := []string{direct, service}
	for _, a := range addresses {
		if err := reach(a); err != nil {
			return c, err
		}
	}
	var rates [2][]float64
	var ratios []float64
	for round := range rounds + 1 {
		var now [2]float64
		for turn := range 2 {
			which := (round + turn) % 2 // who goes first changes
			if now[which], err = connections(addresses[which]); err != nil {
				return c, err
			}
		}
		if round == 0 {
			continue // nothing was warm yet
		}
		rates[0], rates[1] = append(rates[0], now[0]), append(rates[1], now[1])
		ratios = append(ratios, now[1]/now[0])
	}
	return Comparison{median(rates[0]), median(rates[1]), median(ratios)}, nil
}

// reach waits until an address answers: a Service does as soon as its node has
// heard of its endpoints.
func reach(address string) error {
	var err error
	for deadline := time.Now().Add(reachTimeout); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if err = short(address); err == nil {
			return nil
		}
	}
	return fmt.Errorf("%s does not answer: %w", address, err)
}

// connections makes one turn's connections and gives their rate per second.
func connections(address string) (float64, error) {
	begun := time.Now()
	for range compareEach {
		if err := short(address); err != nil {
			return 0, err
		}
	}
	return compareEach / time.Since(begun).Seconds(), nil
}

// short is one connection. The server ends it, so that its port can be used
// again at once on this side.
func short(address string) error {
	c, err := net.DialTimeout("tcp4", address, requestTimeout)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(requestTimeout)); err != nil {
		return err
	}
	answer, err := io.ReadAll(c)
	if err == nil && string(answer) != shortAnswer {
		err = fmt.Errorf("%s answers %q", address, answer)
	}
	return err
}

func median(of []float64) float64 {
	slices.Sort(of)
	return of[len(of)/2]
}

// shortAnswer is what ServeShort says.
const shortAnswer = "ok\n"

// ServeShort says one line on every connection and ends it, until the listener
// is closed.
func ServeShort(l net.Listener) error {
	for {
		c, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return err
		}
		_, _ = io.WriteString(c, shortAnswer) // a client that has left is no error of the server's
		c.Close()
	}
}
