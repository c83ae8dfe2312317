package config

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// TestReferencePage checks that every section and key has a comment, and that docs/config.md is made of them.
func TestReferencePage(t *testing.T) {
	comments := fieldComments(t)
	var b bytes.Buffer
	b.WriteString(referenceHead)
	for _, s := range schema() {
		doc := comments["Config."+s.name]
		if doc == "" {
			t.Errorf("[%s] has no comment", s.name)
		}
		fmt.Fprintf(&b, "\n## [%s]\n\n%s\n\n| key | type | default | values |\n| --- | --- | --- | --- |\n", s.name, doc)
		for _, k := range s.keys {
			fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", k.name, typeName(k.typ), defaultOf(k), valuesOf(k))
		}
		for _, k := range s.keys {
			doc := comments[k.String()]
			if !strings.HasSuffix(doc, ".") {
				t.Errorf("%s has no comment that is a sentence: %q", k, doc)
			}
			fmt.Fprintf(&b, "\n**%s** — %s\n", k.name, doc)
		}
	}
	golden(t, "../../docs/config.md", b.Bytes())
}

const referenceHead = `# Configuration

<!-- Made from the comments of spmd/config's structs by "go generate ./spmd/config"; do not edit. -->

A run is described by one TOML file:

    spmd CONFIG.toml [section.key=value ...]
    spmd check CONFIG.toml [-n RANKS] [section.key=value ...]

Values on the command line replace those in the file. They are written as in TOML; a bare word is a string
(` + "`optimizer.lr=1e-3 data.shuffle=false checkpoint.resume=none data.paths='[\"a.txt\", \"b.txt\"]'`" + `). A single string stands
for a list of one.

` + "`check`" + ` validates a configuration, prints it with all defaults, and starts nothing. A configuration that is wrong is refused
with exit status 2 and all its mistakes at once, each as ` + "`file:line: section.key: what; remedy`" + `. Unknown keys are mistakes.
`

// fieldComments returns the comments of the fields of Config's sections, as section.key; those of Config's own as Config.section.
func fieldComments(t *testing.T) map[string]string {
	t.Helper()
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	structs, sectionOf := map[string]*ast.StructType{}, map[string]string{}
	for _, name := range files {
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			if spec, ok := n.(*ast.TypeSpec); ok {
				if fields, ok := spec.Type.(*ast.StructType); ok {
					structs[spec.Name.Name] = fields
				}
			}
			return true
		})
	}
	comments := map[string]string{}
	for _, f := range structs["Config"].Fields.List {
		if name := tomlName(f); name != "-" {
			comments["Config."+name] = text(f)
			sectionOf[f.Type.(*ast.Ident).Name] = name
		}
	}
	for typ, section := range sectionOf {
		for _, f := range structs[typ].Fields.List {
			comments[section+"."+tomlName(f)] = text(f)
		}
	}
	return comments
}

func tomlName(f *ast.Field) string {
	_, rest, _ := strings.Cut(f.Tag.Value, `toml:"`)
	name, _, _ := strings.Cut(rest, `"`)
	return name
}

func text(f *ast.Field) string {
	return strings.Join(strings.Fields(f.Doc.Text()), " ")
}

func defaultOf(k key) string {
	switch value := k.in(Default()); {
	case k.required == "always":
		return "required"
	case k.required != "":
		return "required " + k.required
	case value.IsZero() && (value.Kind() == reflect.String || value.Kind() == reflect.Slice || value.Kind() == reflect.Map):
		return ""
	default:
		return "`" + tomlValue(value) + "`"
	}
}

func valuesOf(k key) string {
	switch {
	case k.values != nil:
		values := make([]string, len(k.values))
		for i, v := range quoted(k.values) {
			values[i] = "`" + v + "`"
		}
		if k.or != "" {
			values = append(values, k.or)
		}
		return strings.Join(values, ", ")
	case k.only != "":
		return "only `" + k.only + "` so far"
	}
	return k.bounds.String()
}

// TestSchema checks the tags: a default is legal or means "not set", and no value is both legal and refused.
func TestSchema(t *testing.T) {
	seen := map[string]bool{}
	for _, s := range schema() {
		for _, k := range s.keys {
			if seen[k.String()] || k.name == "" {
				t.Errorf("%s twice, or without a name", k)
			}
			seen[k.String()] = true
			if (k.only == "") != (k.feature == "") {
				t.Errorf("%s: only %q, feature %q", k, k.only, k.feature)
			}
			if value := tomlValue(k.in(Default())); k.only != "" && value != k.only {
				t.Errorf("%s: default %s, only %s", k, value, k.only)
			}
			if value := k.in(Default()); k.values != nil && value.String() != "" && !slices.Contains(k.values, value.String()) {
				t.Errorf("%s: the default %s is not legal", k, value)
			}
			for _, v := range k.later {
				if slices.Contains(k.values, v) {
					t.Errorf("%s: %q is legal and refused", k, v)
				}
			}
		}
	}
	for _, want := range []string{"run.mode", "train.dtype", "parallel.expert", "monitor.log_interval"} {
		if !seen[want] {
			t.Errorf("no key %s", want)
		}
	}
}
