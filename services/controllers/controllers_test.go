package controllers

import (
	"testing"

	"github.com/rutterhq/rutter/kernel/kerneltest"
	"github.com/rutterhq/rutter/kinds"
	"github.com/rutterhq/rutter/services/scheduler"
)

// testSchema is the one that all tests here use.
var testSchema = &kinds.Schema{Cluster: "11111111-2222-3333-4444-555555555555"}

func TestScenarios(t *testing.T) {
	kerneltest.Scenarios(t, testSchema, append(Deciders(Default()), scheduler.Decider)...)
}
