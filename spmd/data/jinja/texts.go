package jinja

import (
	"fmt"
	"strings"
)

// indentText puts spaces before the lines of a text but the first and empty ones.
func indentText(s string, c call) (Value, error) {
	prefix := "    "
	switch n := c.get(0, "width", int64(4)).(type) {
	case int64:
		prefix = strings.Repeat(" ", int(min(max(n, 0), 1000)))
	case string:
		prefix = n
	}
	lines := strings.Split(s, "\n")
	if len(lines)*len(prefix) > maxOutput {
		return nil, fmt.Errorf("a text of more than %d bytes", maxOutput)
	}
	for i, line := range lines {
		if (i > 0 || truth(c.get(1, "first", false))) && (line != "" || truth(c.get(2, "blank", false))) {
			lines[i] = prefix + line
		}
	}
	return strings.Join(lines, "\n"), nil
}

func escapeHTML(s string) string {
	return strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;", "'", "&#39;", `"`, "&#34;").Replace(s)
}
