package rutter

import (
	"fmt"
	"go/ast"
	"go/types"
	"slices"
	"strings"
	"testing"

	"golang.org/x/tools/go/packages"
)

// unordered is what stands beside a loop over a map in a decider, followed by
// why the order of the loop cannot be seen in what is decided.
const unordered = "in no order: "

// TestDecidersKeepOrder finds what the compiler allows and replay does not: a
// map's order in a decision, and floating point. (That sorts have a total order
// is for reviewers: compare functions end with the name.) In kinds, where loops
// over maps collect sets, it looks for floating point only.
func TestDecidersKeepOrder(t *testing.T) {
	loaded, err := packages.Load(&packages.Config{
		Mode: packages.NeedName | packages.NeedFiles | packages.NeedSyntax | packages.NeedTypes | packages.NeedTypesInfo | packages.NeedImports | packages.NeedExportFile,
	}, "./kinds", "./services/scheduler", "./services/controllers", "./services/ingress")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range loaded {
		for _, e := range p.Errors {
			t.Error(e)
		}
		for _, found := range disorder(p) {
			t.Error(found)
		}
	}
}

// disorder lists the places of a package where a decision may depend on a map's
// order or on floating point.
func disorder(p *packages.Package) (found []string) {
	for _, f := range p.Syntax {
		why := map[string]string{} // comments by file and line
		at := func(n ast.Node) string {
			pos := p.Fset.Position(n.Pos())
			return fmt.Sprintf("%s:%d", pos.Filename, pos.Line)
		}
		for _, group := range f.Comments {
			for _, c := range group.List {
				why[at(c)] += c.Text
			}
		}
		ast.Inspect(f, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.RangeStmt:
				if p.Name != "kinds" && unorderedRange(p.TypesInfo, n) && !strings.Contains(why[at(n)], unordered) {
					found = append(found, fmt.Sprintf("%s: a loop over a map: say behind it %q and why, or sort its keys", at(n), "// "+unordered))
				}
			case ast.Expr:
				if b, ok := basic(p.TypesInfo.TypeOf(n)); ok && b.Info()&(types.IsFloat|types.IsComplex) != 0 {
					found = append(found, fmt.Sprintf("%s: floating point: it does not compute the same everywhere", at(n)))
				}
			}
			return true
		})
	}
	return found
}

// TestPlantsAreSeenInTheSource: what replay finds only by luck, or on another
// machine, is found before it runs. (That it is found when it runs is
// TestDetector's in sim/logs.)
func TestPlantsAreSeenInTheSource(t *testing.T) {
	loaded, err := packages.Load(&packages.Config{
		Mode: packages.NeedName | packages.NeedFiles | packages.NeedSyntax | packages.NeedTypes | packages.NeedTypesInfo | packages.NeedImports | packages.NeedExportFile,
	}, "./testdata/planted")
	if err != nil || len(loaded) != 1 || len(loaded[0].Errors) > 0 {
		t.Fatal(err, loaded)
	}
	seen := disorder(loaded[0])
	l := &complaints{TB: t}
	for _, f := range loaded[0].Syntax {
		for _, i := range f.Imports {
			if path := strings.Trim(i.Path.Value, `"`); slices.ContainsFunc(pure, func(n string) bool { return within(path, n) }) {
				seen = append(seen, "imports "+path)
			}
		}
		ast.Inspect(f, func(n ast.Node) bool {
			checkNode(l, loaded[0].Fset, source{path: "services/controllers/planted.go"}, n)
			return true
		})
	}
	all := strings.Join(append(seen, l.told...), "\n")
	for _, want := range []string{"planted.go:13: a loop over a map", "planted.go:17: a loop over a map", "planted.go:26: floating point", "imports math/rand/v2", "time.Now: now is given", "imports os"} {
		if !strings.Contains(all, want) {
			t.Errorf("%q is not found among\n%s", want, all)
		}
	}
	if strings.Contains(all, "planted.go:20:") {
		t.Errorf("a loop that says why its order cannot be seen is found:\n%s", all)
	}
}

// complaints is a testing.TB that keeps what it is told instead of failing.
type complaints struct {
	testing.TB
	told []string
}

// Errorf implements testing.TB.
func (c *complaints) Errorf(format string, args ...any) {
	c.told = append(c.told, fmt.Sprintf(format, args...))
}

// unorderedRange tells whether a loop runs over a map, or over maps.Keys and
// the like that nobody sorts.
func unorderedRange(info *types.Info, r *ast.RangeStmt) bool {
	if _, ok := info.TypeOf(r.X).Underlying().(*types.Map); ok {
		return true
	}
	call, ok := r.X.(*ast.CallExpr)
	if !ok {
		return false
	}
	f, ok := call.Fun.(*ast.SelectorExpr)
	if !ok {
		return false
	}
	of, ok := info.Uses[f.Sel].(*types.Func)
	return ok && of.Pkg() != nil && of.Pkg().Path() == "maps"
}

func basic(t types.Type) (*types.Basic, bool) {
	if t == nil {
		return nil, false
	}
	b, ok := t.Underlying().(*types.Basic)
	return b, ok
}
