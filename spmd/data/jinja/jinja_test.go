package jinja

import (
	"encoding/json"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
)

// render renders a template with the variables of a JSON object.
func render(t *testing.T, source, variables string, tracked ...*Dict) (Result, error) {
	t.Helper()
	v, err := ParseJSON([]byte(variables))
	if err != nil {
		t.Fatal(err)
	}
	template, err := Parse(source)
	if err != nil {
		return Result{}, err
	}
	return template.Render(v.(*Dict).values, tracked)
}

// TestCases compares renderings with those of jinja2 3.1 as Transformers 5.23 sets it up. Where jinja2 fails, so must this.
func TestCases(t *testing.T) {
	content, err := os.ReadFile("testdata/cases.json")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Variables json.RawMessage
		Cases     []struct{ Template, Want, Error string }
	}
	if err := json.Unmarshal(content, &file); err != nil || len(file.Cases) < 35 {
		t.Fatalf("%d cases, %v", len(file.Cases), err)
	}
	for _, c := range file.Cases {
		got, err := render(t, c.Template, string(file.Variables))
		switch {
		case (err != nil) != (c.Error != ""):
			t.Errorf("%s\nerror %v, want %q", c.Template, err, c.Error)
		case err == nil && got.Text != c.Want:
			t.Errorf("%s\ngot  %q\nwant %q", c.Template, got.Text, c.Want)
		}
	}
}

// TestSpans checks which parts of a text are told apart: those within generation, and those of messages, whichever loop
// writes them, but not what only passes through a block.
func TestSpans(t *testing.T) {
	list := &List{}
	var messages []*Dict
	for _, role := range []string{"a", "b", "a"} {
		d := &Dict{}
		d.Set("role", role)
		messages, list.Items = append(messages, d), append(list.Items, d)
	}
	template, err := Parse("<{% for m in messages %}{% set x %}{% for n in messages %}{{ n.role }}{% endfor %}{% endset %}{% endfor %}" +
		"{% for m in messages[1:] %}[{{ m.role }}{% generation %}{{ m.role ~ m.role }}{% endgeneration %}]\n{% for n in messages %}.{% endfor %}{% endfor %}>")
	if err != nil {
		t.Fatal(err)
	}
	got, err := template.Render(map[string]Value{"messages": list}, messages)
	if err != nil {
		t.Fatal(err)
	}
	if want := "<[bbb]\n...[aaa]\n...>"; got.Text != want {
		t.Errorf("text %q, want %q", got.Text, want)
	}
	if want := []Span{{3, 5}, {12, 14}}; !slices.Equal(got.Generated, want) {
		t.Errorf("generated %v, want %v", got.Generated, want)
	}
	if want := []ItemSpan{{1, Span{1, 10}}, {2, Span{10, 19}}}; !slices.Equal(got.Items, want) {
		t.Errorf("messages %v, want %v", got.Items, want)
	}
}

// TestErrors checks that mistakes name their line, and that no template runs or writes without end.
func TestErrors(t *testing.T) {
	for source, want := range map[string]string{
		"a\n{% if x":                       "line 2 of the template",
		"{{ 'a }}":                         "a string does not end",
		"{# a":                             "a comment does not end",
		"{% raw %}a":                       "raw does not end",
		"{% if true %}a":                   "instead of {% endif %}",
		"{% include 'x' %}":                `the statement "include" is not known`,
		"\n\n{{ x|frobnicate }}":           `line 3 of the template: the filter "frobnicate" is not known`,
		"{{ x is frobnicated }}":           `the test "frobnicated" is not known`,
		"{% endif %}":                      `the statement "endif" is not known`,
		"{{ 1 + }}":                        "}} instead of an expression",
		"{{ a.b.c }}":                      "has no attribute c",
		"{{ x.y }}":                        `"x", which is not defined`,
		"{{ raise_exception('because') }}": "the chat template refuses it: because",
		"{{ strftime_now('%d') }}":         "the date of today",
		"{% break %}":                      "outside of a loop",
		"{{ 1 // 0 }}":                     "division by zero",
		"{{ range(1000000) }}":             "more than 100000 numbers",
		"{{ 'abcdefgh' * 100000000 }}":     "a string * a number",
		"{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}":                                         "more than 100 deep",
		"{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{{ a }}{% endfor %}": "does not come to an end",
		"{{ " + strings.Repeat("(", 200) + "1" + strings.Repeat(")", 200) + " }}":                 "nested more than 100 deep",
		"{{ " + strings.Repeat("not ", 200) + "1 }}":                                              "nested more than 100 deep",
		strings.Repeat("{% if 1 %}", 200):                                                         "nested more than 100 deep",
		strings.Repeat("x", maxSource+1):                                                          "more than 1048576",
		"{% set x = [1] %}{% set x.y = 1 %}":                                                      "only a namespace",
		"{% for a, b in [[1, 2, 3]] %}{% endfor %}":                                               "3 values for the 2 names a, b",
		"{% macro f() %}{% generation %}{% endgeneration %}{% endmacro %}{{ f() }}":               "within a macro",
	} {
		_, err := render(t, source, `{"a": {}}`)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.60s: got %v, want %q", source, err, want)
		}
	}
	var raised *RaisedError
	if _, err := render(t, "{{ raise_exception('because') }}", "{}"); !errors.As(err, &raised) || raised.Message != "because" {
		t.Errorf("got %v", err)
	}
	for _, text := range []string{"", "{", `{"a": }`, "{} {}", strings.Repeat("[", 200) + strings.Repeat("]", 200)} {
		if _, err := ParseJSON([]byte(text)); err == nil {
			t.Errorf("no error for %.20q", text)
		}
	}
}

// FuzzRender feeds templates of anything: they may fail but not panic, and not go on for ever.
func FuzzRender(f *testing.F) {
	for _, s := range []string{
		"{% for m in messages %}{{ m.role|trim }}{% if loop.last %}{{ m['content'][::-1] }}{% endif %}{% endfor %}",
		"{%- set ns = namespace(a=1) -%}{% set ns.a = ns.a + 1 %}{{ ns.a }}{# c #}", "{{ messages|tojson(indent=2) }}",
		"{% macro f(a, b=2) %}{{ a ~ b }}{% endmacro %}{{ f('x') }}", "{{ 'a b'.split()|map('upper')|join(', ') if x is not defined else 1 }}",
		"{% generation %}{{ -1 ** 2 // 3 % 4 }}{% endgeneration %}", "{{ {'a': [1, (2,), 3.5e2]}.items()|list }}", "{% raw %}{{{% endraw %}",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, source string) {
		template, err := Parse(source)
		if err != nil {
			return
		}
		m := &Dict{}
		m.Set("role", "user")
		m.Set("content", "hi")
		result, err := template.Render(map[string]Value{"messages": &List{Items: []Value{m}}}, []*Dict{m})
		if err == nil {
			for _, s := range result.Items {
				if s.Start < 0 || s.End > len(result.Text) || s.Start >= s.End {
					t.Errorf("span %v of a text of %d bytes", s, len(result.Text))
				}
			}
		}
	})
}
