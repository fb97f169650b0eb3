// Command kubectl is Kubernetes' own, built from its module, so that a machine
// with nothing but Go has one that speaks the version of the API that Rutter
// serves.
package main

import (
	"os"

	"k8s.io/component-base/cli"
	"k8s.io/kubectl/pkg/cmd"
)

func main() {
	os.Exit(cli.Run(cmd.NewDefaultKubectlCommand()))
}
