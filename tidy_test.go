package rutter

import (
	"bufio"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const (
	// kernelBudget bounds the lines of code in kernel/, without tests,
	// kerneltest, comments, blank lines and lines of nothing but brackets.
	kernelBudget = 600
	fileLimit    = 800 // lines of any Go file that is not generated
	funcLimit    = 100 // lines of any function
)

// TestKernelBudget keeps the kernel small enough to be read in one sitting.
func TestKernelBudget(t *testing.T) {
	total := 0
	for _, f := range sources(t) {
		if within(path.Dir(f.path), "kernel") && !f.test && !within(path.Dir(f.path), "kernel/kerneltest") {
			total += codeLines(t, f.path)
		}
	}
	if total > kernelBudget {
		t.Errorf("kernel/ has %d lines of code, the budget is %d: growing it needs an ADR", total, kernelBudget)
	}
}

// codeLines counts the lines of a file that are neither blank nor a comment.
func codeLines(t *testing.T, file string) int {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	n := 0
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if line := strings.TrimSpace(lines.Text()); line != "" && !strings.HasPrefix(line, "//") {
			n++
		}
	}
	return n
}

// TestPackageDocs demands a package comment of every package.
func TestPackageDocs(t *testing.T) {
	documented := map[string]bool{}
	for _, f := range sources(t) {
		if f.test {
			continue
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), f.path, nil, parser.PackageClauseOnly|parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		documented[path.Dir(f.path)] = documented[path.Dir(f.path)] || parsed.Doc != nil
	}
	for dir, ok := range documented {
		if !ok {
			t.Errorf("%s has no package comment", dir)
		}
	}
}

// banned are calls that have no place in the folders named: a decider that
// uses them cannot be replayed, a service that uses them cannot be read.
var banned = []struct {
	pkg, name string // of the call; name "" is any
	folders   []string
	why       string
}{
	{"time", "Now", []string{"kinds", "services/scheduler", "services/controllers", "sim"}, "now is given to whoever decides"},
	{"time", "Since", []string{"kinds", "services/scheduler", "services/controllers", "sim"}, "now is given to whoever decides"},
	{"os", "Getenv", []string{"kinds", "kernel", "services"}, "configuration comes from cmd"},
	{"fmt", "Println", []string{"kinds", "kernel", "events", "services", "internal"}, "only cmd talks to people"},
	{"fmt", "Printf", []string{"kinds", "kernel", "events", "services", "internal"}, "only cmd talks to people"},
	{"log", "Fatal", []string{"kinds", "kernel", "events", "services", "internal"}, "only main ends the process"},
	{"log", "Fatalf", []string{"kinds", "kernel", "events", "services", "internal"}, "only main ends the process"},
	{"resource", "GetScaledValueFromIntOrPercent", []string{"kinds", "services"}, "it computes in floating point"},
	{"intstr", "GetScaledValueFromIntOrPercent", []string{"kinds", "services"}, "it computes in floating point"},
}

// floats are methods that leave the integers.
var floats = []string{"AsApproximateFloat64", "AsFloat64Slow"}

// TestTidy checks what a reviewer should not have to: sizes, banned calls, and
// goroutines that nobody waits for.
func TestTidy(t *testing.T) {
	for _, f := range sources(t) {
		if f.generated {
			continue
		}
		fset := token.NewFileSet()
		parsed, err := parser.ParseFile(fset, f.path, nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		if lines := fset.File(parsed.Pos()).LineCount(); lines > fileLimit && !f.test {
			t.Errorf("%s has %d lines, the limit is %d", f.path, lines, fileLimit)
		}
		ast.Inspect(parsed, func(n ast.Node) bool {
			checkNode(t, fset, f, n)
			return true
		})
	}
}

func checkNode(t testing.TB, fset *token.FileSet, f source, n ast.Node) {
	at := func() string { return fset.Position(n.Pos()).String() }
	dir := path.Dir(f.path)
	switch n := n.(type) {
	case *ast.FuncDecl:
		if lines := fset.Position(n.End()).Line - fset.Position(n.Pos()).Line; lines > funcLimit && !f.test {
			t.Errorf("%s: %s has %d lines, the limit is %d", at(), n.Name.Name, lines, funcLimit)
		}
	case *ast.SelectorExpr:
		if pkg, ok := n.X.(*ast.Ident); ok && !f.test && !f.command {
			for _, b := range banned {
				if pkg.Name == b.pkg && n.Sel.Name == b.name && slices.ContainsFunc(b.folders, func(d string) bool { return within(dir, d) }) {
					t.Errorf("%s: %s.%s: %s", at(), b.pkg, b.name, b.why)
				}
			}
		}
		if slices.Contains(floats, n.Sel.Name) && !f.test && (within(dir, "kinds") || within(dir, "services")) {
			t.Errorf("%s: %s leaves the integers", at(), n.Sel.Name)
		}
	case *ast.GoStmt:
		if !f.test && !f.command && !within(dir, "test") && !within(dir, "deploy") {
			t.Errorf("%s: a goroutine that nobody waits for: use an errgroup", at())
		}
	case *ast.CallExpr:
		if s, ok := n.Fun.(*ast.SelectorExpr); ok && f.test && (s.Sel.Name == "Skip" || s.Sel.Name == "Skipf" || s.Sel.Name == "SkipNow") {
			if x, ok := s.X.(*ast.Ident); ok && (x.Name == "t" || x.Name == "b") {
				t.Errorf("%s: a test that is skipped holds nothing", at())
			}
		}
	case *ast.Comment:
		if strings.Contains(n.Text, "nolint") && f.path != "tidy_test.go" {
			t.Errorf("%s: mend what the linter found, or say in its configuration why it is wrong", at())
		}
	}
}

// TestMakefileIsShort keeps the list of targets readable at a glance.
func TestMakefileIsShort(t *testing.T) {
	b, err := os.ReadFile("Makefile")
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(b), "\n"); n > 40 {
		t.Errorf("Makefile has %s lines, the limit is 40", strconv.Itoa(n))
	}
}
