package jetstream

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nuid"
	"golang.org/x/sys/unix"
)

const (
	// maxPayload bounds one message in bytes: a record and its headers, and
	// what the protocol needs around them.
	maxPayload = 4 << 20
	// diskReserve is what the log leaves free on its disk, in bytes.
	diskReserve = 1 << 30
	// minBudget is the least room in bytes that a log can be begun with.
	minBudget = 16 << 20
	// maxMemoryStore bounds the server's streams in memory, in bytes. The log
	// has none; consumers' states are small.
	maxMemoryStore = 64 << 20
	// startTimeout bounds how long the server may take to read its store.
	// After an unclean stop it reads every block: seconds per GB.
	startTimeout = 10 * time.Minute
	// syncInterval is what Interval is named after.
	syncInterval = time.Second
	// readyPoll is how often StartServer looks whether it failed instead.
	readyPoll = 100 * time.Millisecond
)

// ServerConfig says how the embedded server runs.
type ServerConfig struct {
	// Dir is the server's store, made with mode 0700. One process at a time.
	Dir string
	// Budget is how many bytes of disk the log may take. 0: what is free, but
	// for a reserve of 1 GiB. It is never more than that.
	Budget int64
	// Listen is a loopback address, "127.0.0.1:4222", for services that are
	// processes of their own; port 0 picks one. Empty: the server listens on
	// nothing, and only this process is its client.
	Listen string
	// Token is what a client must show that may do everything. Empty: a random
	// one is made, which only this process knows.
	Token string
	// Services may connect at Listen, with what WriteServiceCredentials writes.
	Services map[string]Rights
	// Secret is what the services' credentials are derived from, kept by the
	// caller so that they are the same at the next start. Empty: no service
	// may connect.
	Secret string
	// Cluster says with which others the server keeps the log; nil: with none.
	Cluster *ClusterConfig
	// Log takes the server's own messages; nil: they are dropped. level is
	// "debug", "info", "warn", "error" or "fatal". It must not block.
	Log func(level, message string)
	// Durability is what an acknowledged write survives; "": Fsync.
	Durability Durability
	// Fatal is called when the disk refuses to take or to sync what is written:
	// nothing can be acknowledged any more. It must not call the server, which
	// may be the caller. nil ends the process.
	Fatal func(error)

	sync syncer        // nil: the disk's own
	slow time.Duration // 0: slowSync
}

// alone tells whether the log is written by this process only.
func (c *ServerConfig) alone() bool { return c.Listen == "" && c.Cluster == nil }

// Server is a NATS server in this process with JetStream on a folder.
type Server struct {
	server *server.Server
	lock   *os.File
	gate   *gate
	guard  *guard // nil: nobody outside this process may connect
	budget int64
	only   bool // no other process writes to the log
	// commits knows which events are on disk.
	commits *committer
	horizon horizon // what this process knows, if it alone writes
	running sync.WaitGroup
}

// StartServer starts the server and returns when it is ready. Reading a large
// store after an unclean stop takes seconds.
func StartServer(c ServerConfig) (*Server, error) {
	if err := os.MkdirAll(c.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("log store: %w", err)
	}
	lock, err := lockDir(c.Dir)
	if err != nil {
		return nil, err
	}
	s, err := start(c, lock)
	if err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	return s, nil
}

func start(c ServerConfig, lock *os.File) (*Server, error) {
	budget, err := budgetOf(c.Dir, c.Budget)
	if err != nil {
		return nil, err
	}
	commits := newCommitter(c)
	if err := commits.begin(c.alone()); err != nil {
		return nil, fmt.Errorf("log store %s: %w", c.Dir, err)
	}
	token := c.Token
	if token == "" {
		token = nuid.New().Next() + nuid.New().Next() // 2 × 96 bits from crypto/rand
	}
	o := &server.Options{
		ServerName: "rutter", JetStream: true, StoreDir: c.Dir,
		// The stream's own limit is the budget. The server reserves what each
		// stream may take, so a limit of its own would refuse a stream that was
		// made when the disk had more room.
		JetStreamMaxMemory: maxMemoryStore, JetStreamMaxStore: math.MaxInt64 / 2,
		MaxPayload: maxPayload,
		NoSigs:     true, NoLog: true, NoSystemAccount: false, DontListen: true, // see guard
	}
	switch {
	case c.Durability == Interval:
		o.SyncInterval = syncInterval
	case !c.alone():
		o.SyncAlways = true // who is not in this process cannot wait for a commit
	}
	gate := &gate{token: token, secret: c.Secret, services: c.Services}
	o.CustomClientAuthentication = gate
	if c.Listen != "" {
		if err := loopback(c.Listen); err != nil {
			return nil, err
		}
	}
	if c.Cluster != nil {
		if err := c.Cluster.options(o); err != nil {
			return nil, err
		}
	}
	ns, err := server.NewServer(o)
	if err != nil {
		return nil, fmt.Errorf("log server: %w", err)
	}
	l := &serverLog{to: c.Log, broken: func(m string) { _ = commits.fail(errors.New(m)) }}
	ns.SetLoggerV2(l, false, false, false)
	ns.Start() // it does not block
	for end := time.Now().Add(startTimeout); l.fatal.Load() == nil && time.Now().Before(end); {
		if ns.ReadyForConnections(readyPoll) {
			break
		}
	}
	if l.fatal.Load() != nil || !ns.JetStreamEnabled() {
		ns.Shutdown()
		ns.WaitForShutdown()
		if m := l.fatal.Load(); m != nil {
			return nil, fmt.Errorf("log server: %s", *m)
		}
		return nil, errors.New("log server: it did not become ready")
	}
	s := &Server{server: ns, lock: lock, gate: gate, budget: budget, only: c.alone(), commits: commits}
	if err := s.SyncStore(); err != nil {
		ns.Shutdown()
		ns.WaitForShutdown()
		return nil, err
	}
	if c.Listen != "" {
		if s.guard, err = newGuard(s, c.Listen); err != nil {
			ns.Shutdown()
			ns.WaitForShutdown()
			return nil, err
		}
	}
	s.running.Go(commits.run)
	s.running.Go(func() { commits.watch(lock) })
	if c.Cluster != nil {
		s.running.Go(s.compactKeys)
		s.running.Go(s.tendMirror)
	}
	return s, nil
}

// Close stops the server. What was acknowledged is on disk already.
func (s *Server) Close() error {
	var gerr error
	if s.guard != nil {
		gerr = s.guard.close()
	}
	s.server.Shutdown()
	s.server.WaitForShutdown()
	close(s.commits.stop)
	s.running.Wait()
	if err := errors.Join(gerr, s.commits.end(), s.lock.Close()); err != nil {
		return fmt.Errorf("log store: %w", err)
	}
	return nil
}

// Connect returns a new connection of this process to the server.
func (s *Server) Connect() (*nats.Conn, error) {
	nc, err := nats.Connect("", append(connectionOptions(), nats.InProcessServer(s), nats.Token(s.gate.token))...)
	if err != nil {
		return nil, fmt.Errorf("connect to the log server in this process: %w", err)
	}
	return nc, nil
}

// InProcessConn makes a pipe to the server, for Connect.
func (s *Server) InProcessConn() (net.Conn, error) { return s.server.InProcessConn() }

// alone tells whether all clients of the server are in this process.
func (s *Server) alone() bool { return s.only }

// dir returns the server's store.
func (s *Server) dir() string { return filepath.Dir(s.lock.Name()) }

// Budget returns how many bytes of disk the log may take: for Options.
func (s *Server) Budget() int64 { return s.budget }

// URL returns where the server listens for services, or "".
func (s *Server) URL() string {
	if s.guard == nil {
		return ""
	}
	return "nats://" + s.guard.listener.Addr().String()
}

// WriteCredentials writes a file that Connect reads, with mode 0600. Who has it
// may do everything: it is for who looks after the server, and for tests.
func (s *Server) WriteCredentials(file string) error { return writeSecret(file, s.gate.token) }

// loopback refuses an address that others can reach: the connection is not
// encrypted.
func loopback(address string) error {
	host, p, err := net.SplitHostPort(address)
	if err != nil {
		return fmt.Errorf("log server: listen on %q: %w", address, err)
	}
	if ip, err := netip.ParseAddr(host); host != "localhost" && (err != nil || !ip.IsLoopback()) {
		return fmt.Errorf("log server: listen on %q: only a loopback address is allowed", address)
	}
	if _, err := strconv.ParseUint(p, 10, 16); err != nil {
		return fmt.Errorf("log server: listen on %q: %w", address, err)
	}
	return nil
}

// lockDir keeps a second process from the store, which NATS does not.
func lockDir(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("log store: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("log store %s: another process uses it: %w", dir, err), f.Close())
	}
	return f, nil
}

// budgetOf returns how many bytes the log may take: what it has and what is
// free but for the reserve, at most the limit if there is one.
func budgetOf(dir string, limit int64) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, fmt.Errorf("log store %s: free space: %w", dir, err)
	}
	used := int64(0)
	err := filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		info, err := e.Info()
		if err == nil {
			used += info.Size()
		}
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("log store: its size: %w", err)
	}
	budget := int64(st.Bavail)*st.Bsize + used - diskReserve
	if limit > 0 {
		budget = min(budget, limit)
	}
	if budget < minBudget {
		return 0, fmt.Errorf("log store %s: %d MiB may be used of this disk, %d are needed (and 1 GiB is kept free)",
			dir, budget>>20, minBudget>>20)
	}
	return budget, nil
}

// serverLog hands NATS' messages on.
type serverLog struct {
	to     func(level, message string)
	broken func(message string) // is told that the store cannot be written to
	fatal  atomic.Pointer[string]
}

// brokenStore are what the server says once it writes nothing more: the disk
// is full, or read-only, or broken. It says so here only; who waits for an
// answer then waits for ever.
var brokenStore = []string{"ritical write error", "disabling JetStream", "will be DISABLED"}

func (l *serverLog) put(level, format string, v []any) {
	m := fmt.Sprintf(format, v...)
	if level == "fatal" {
		l.fatal.CompareAndSwap(nil, &m)
	}
	if l.to != nil {
		l.to(level, m)
	}
	if (level == "error" || level == "warn") && slices.ContainsFunc(brokenStore, func(s string) bool { return strings.Contains(m, s) }) {
		l.broken(m)
	}
}

func (l *serverLog) Noticef(format string, v ...any) { l.put("info", format, v) }
func (l *serverLog) Warnf(format string, v ...any)   { l.put("warn", format, v) }
func (l *serverLog) Errorf(format string, v ...any)  { l.put("error", format, v) }
func (l *serverLog) Fatalf(format string, v ...any)  { l.put("fatal", format, v) }
func (l *serverLog) Debugf(format string, v ...any)  { l.put("debug", format, v) }
func (l *serverLog) Tracef(format string, v ...any)  { l.put("debug", format, v) }
