// Command rutter is all of Rutter in one binary: the cluster (up), each of its
// services alone, and the commands that ask the log what happened and why.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/rs/zerolog"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/rutterhq/rutter/internal/cli"
	"github.com/rutterhq/rutter/internal/zlog"
)

// build is set by the linker; it is part of every recorded decision.
var build = "dev"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := root().ExecuteContext(ctx); err != nil {
		var code exitCode
		if errors.As(err, &code) {
			os.Exit(int(code))
		}
		fmt.Fprintln(os.Stderr, "rutter:", err)
		os.Exit(1)
	}
}

// exitCode is an error that was told to the user already.
type exitCode int

// Error implements error.
func (c exitCode) Error() string { return fmt.Sprintf("exit code %d", int(c)) }

func root() *cobra.Command {
	c := &cobra.Command{
		Use:           "rutter",
		Short:         "Runs microservices on virtual machines and speaks the Kubernetes API; the log is the cluster",
		Version:       build,
		SilenceUsage:  true,
		SilenceErrors: true,
		// Every flag --some-flag may be given as RUTTER_SOME_FLAG.
		PersistentPreRunE: func(c *cobra.Command, _ []string) error { return fromEnvironment(c.Flags()) },
	}
	c.AddCommand(upCommand(), downCommand(), serverCommand(), natsCommand(), apiserverCommand(), schedulerCommand(), controllersCommand(),
		nodeagentCommand(), nodeCredentialsCommand(), ingressCommand(), kubeconfigCommand(), imageCommand(), keeperCommand())
	c.AddCommand(cli.Commands(replayer)...)
	return c
}

func fromEnvironment(flags *pflag.FlagSet) error {
	var errs []error
	flags.VisitAll(func(f *pflag.Flag) {
		name := "RUTTER_" + strings.ToUpper(strings.ReplaceAll(f.Name, "-", "_"))
		if v, ok := os.LookupEnv(name); ok && !f.Changed {
			if err := flags.Set(f.Name, v); err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", name, err))
			}
		}
	})
	return errors.Join(errs...)
}

// logging is what all services share of flags.
type logging struct{ level string }

func (l *logging) flags(f *pflag.FlagSet) {
	f.StringVar(&l.level, "log-level", "info", "debug, info, warn or error")
}

func (l *logging) logger() (zerolog.Logger, error) { return zlog.New(os.Stderr, l.level) }
