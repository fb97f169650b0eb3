package jetstream

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
)

// connectionOptions are those of every connection. Nothing is kept while
// there is no connection: what Append could not send it sends again itself,
// once it knows that it was not stored.
func connectionOptions() []nats.Option {
	return []nats.Option{
		nats.Name("rutter"),
		nats.MaxReconnects(-1),
		nats.ReconnectWait(50 * time.Millisecond),
		nats.ReconnectJitter(50*time.Millisecond, 50*time.Millisecond),
		nats.ReconnectBufSize(-1),
		nats.PingInterval(10 * time.Second), // a dead connection is noticed after two
		nats.MaxPingsOutstanding(2),
		// The default writes to stderr. Whatever fails comes back as an error of
		// Append, Follow or Last.
		nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}),
		nats.IgnoreAuthErrorAbort(), // a server that restarts may not know its users yet
	}
}

// Connect connects to a NATS server elsewhere, with the file that
// WriteServiceCredentials wrote there (empty: without). It tries until it
// succeeds or ctx ends.
func Connect(ctx context.Context, url, credentials string) (*nats.Conn, error) {
	o := connectionOptions()
	if credentials != "" {
		token, err := os.ReadFile(credentials)
		if err != nil {
			return nil, fmt.Errorf("connect to the log at %s: %w", url, err)
		}
		if name, secret, ok := strings.Cut(strings.TrimSpace(string(token)), ":"); ok {
			o = append(o, nats.UserInfo(name, secret), nats.CustomInboxPrefix(inbox(name)))
		} else {
			o = append(o, nats.Token(name))
		}
	}
	for {
		nc, err := nats.Connect(url, o...)
		if err == nil {
			return nc, nil
		}
		if errors.Is(err, nats.ErrAuthorization) {
			return nil, fmt.Errorf("connect to the log at %s: %w", url, err)
		}
		if werr := wait(ctx, 200*time.Millisecond); werr != nil {
			return nil, fmt.Errorf("connect to the log at %s: %w: %w", url, werr, err)
		}
	}
}

// wait returns after d, or with ctx's error when that ends before.
func wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
