// Openapigen writes the OpenAPI schemas of Kubernetes' API types, which Rutter
// serves, explains and applies by, to the folder that its argument names:
//
//	go run . ../../kinds/openapi/models/data
//
// It runs kube-openapi's generator over k8s.io/api and k8s.io/apimachinery,
// which gives Go code, and then a program with that code (dump), which gives one
// compressed JSON file per Go package. It is a module of its own because nothing
// else needs the generator's dependencies; the versions of k8s.io/api and
// k8s.io/apimachinery here are to be those of the main module, which is tested.
package main

import (
	"fmt"
	"log"
	"os"
	"os/exec"
	"path/filepath"

	"k8s.io/gengo/v2"
	"k8s.io/gengo/v2/generator"
	"k8s.io/kube-openapi/cmd/openapi-gen/args"
	"k8s.io/kube-openapi/pkg/generators"
)

// packages are what schemas are made for: every group-version of Kubernetes
// that is stable, and what these refer to.
var packages = []string{
	"k8s.io/apimachinery/pkg/api/resource",
	"k8s.io/apimachinery/pkg/apis/meta/v1",
	"k8s.io/apimachinery/pkg/runtime",
	"k8s.io/apimachinery/pkg/util/intstr",
	"k8s.io/apimachinery/pkg/version",
	"k8s.io/api/admissionregistration/v1",
	"k8s.io/api/apps/v1",
	"k8s.io/api/authentication/v1",
	"k8s.io/api/authorization/v1",
	"k8s.io/api/autoscaling/v1",
	"k8s.io/api/autoscaling/v2",
	"k8s.io/api/batch/v1",
	"k8s.io/api/certificates/v1",
	"k8s.io/api/coordination/v1",
	"k8s.io/api/core/v1",
	"k8s.io/api/discovery/v1",
	"k8s.io/api/events/v1",
	"k8s.io/api/flowcontrol/v1",
	"k8s.io/api/networking/v1",
	"k8s.io/api/node/v1",
	"k8s.io/api/policy/v1",
	"k8s.io/api/rbac/v1",
	"k8s.io/api/resource/v1",
	"k8s.io/api/scheduling/v1",
	"k8s.io/api/scheduling/v1alpha3", // batch/v1 refers to it
	"k8s.io/api/storage/v1",
	"github.com/rutterhq/rutter/kinds/rutterv1",
}

func main() {
	log.SetFlags(0)
	log.SetPrefix("openapigen: ")
	if len(os.Args) != 2 {
		log.Fatal("usage: go run . FOLDER")
	}
	if err := run(os.Args[1]); err != nil {
		log.Fatal(err)
	}
}

func run(folder string) error {
	folder, err := filepath.Abs(folder)
	if err != nil {
		return fmt.Errorf("resolve the output folder: %w", err)
	}
	if err := os.MkdirAll("generated", 0o755); err != nil {
		return fmt.Errorf("make the folder of the generated code: %w", err)
	}
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return fmt.Errorf("make the output folder: %w", err)
	}
	a := args.New()
	a.OutputDir, a.OutputPkg = "generated", "github.com/rutterhq/rutter/internal/openapigen/generated"
	a.OutputFile = "openapi.go"
	a.ReportFilename = filepath.Join("generated", "violations.txt")
	targets := func(c *generator.Context) []generator.Target {
		return generators.GetOpenAPITargets(c, a, nil)
	}
	if err := gengo.Execute(generators.NameSystems(), generators.DefaultNameSystem(), targets, gengo.StdBuildTag, packages); err != nil {
		return fmt.Errorf("generate the definitions: %w", err)
	}
	dump := exec.Command("go", "run", "./dump", folder)
	dump.Stdout, dump.Stderr = os.Stdout, os.Stderr
	if err := dump.Run(); err != nil {
		return fmt.Errorf("write the definitions: %w", err)
	}
	return nil
}
