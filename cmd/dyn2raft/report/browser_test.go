//go:build browser

package report

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"html"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// These tests look at the pages with a real browser. They need Chromium, as
// $BROWSER or in the path, and fail without it:
//
//	go test -tags browser ./cmd/dyn2raft/report
//
// With SCREENSHOTS=DIR they leave pictures and a printed page there for a
// person to look at.

// widths are those of a phone, of the text on A4 paper with our margins, of the
// smallest window with wide plots, and of a laptop, in CSS pixels.
var widths = []int{375, 688, 720, 1280}

func browser(t *testing.T) string {
	t.Helper()
	for _, name := range []string{os.Getenv("BROWSER"), "chromium", "chromium-browser", "google-chrome", "chrome"} {
		if path, err := exec.LookPath(name); name != "" && err == nil {
			return path
		}
	}
	t.Fatal("there is no browser: install Chromium, or name one in $BROWSER")
	return ""
}

// run runs the browser, for which there is no other host, and returns its two outputs.
func run(t *testing.T, args ...string) (stdout, stderr string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, browser(t), append([]string{
		"--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars", "--no-first-run",
		"--user-data-dir=" + t.TempDir(), "--enable-logging=stderr", "--host-resolver-rules=MAP * ~NOTFOUND",
		"--allow-file-access-from-files", // for the page that measures others
	}, args...)...)
	var out, err bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &err
	cmd.WaitDelay = 5 * time.Second
	if e := cmd.Run(); e != nil {
		t.Fatalf("run browser: %v\n%s", e, err.String())
	}
	return out.String(), err.String()
}

func console(stderr string) (out []string) {
	for line := range strings.Lines(stderr) {
		if strings.Contains(line, "CONSOLE") {
			out = append(out, line)
		}
	}
	return out
}

// measure is a page that shows others at all widths and tells what of them does
// not fit.
const measure = `<!DOCTYPE html><meta charset="utf-8"><link rel="icon" href="data:,"><body>%s<script>
addEventListener("load", () => {
  const out = [];
  for (const f of document.querySelectorAll("iframe")) {
    const doc = f.contentDocument, root = doc.documentElement, say = s => out.push(f.title + ": " + s);
    const width = root.clientWidth;
    for (const d of doc.querySelectorAll("details")) d.open = true;
    const name = e => e.tagName + " " + (e.textContent || "").trim().slice(0, 60);
    if (!doc.body || !doc.body.textContent.trim()) { say("empty"); continue; }
    for (const r of f.contentWindow.performance.getEntriesByType("resource")) say("request: " + r.name);
    if (root.scrollWidth > width) say("scrolls sideways: " + root.scrollWidth + " > " + width);
    for (const e of doc.body.querySelectorAll("*")) {
      const r = e.getBoundingClientRect();
      if (r.width && (r.right > width + 0.5 || r.left < -0.5)) say("beyond the page: " + name(e));
      if (/^(TD|TH|PRE|P|LI|H1|CODE)$/.test(e.tagName) && getComputedStyle(e).display != "inline" && e.scrollWidth > e.clientWidth + 1) say("beyond its box: " + name(e));
    }
    let shown = 0;
    for (const svg of doc.querySelectorAll("svg")) {
      const box = svg.getBoundingClientRect();
      if (!box.width) continue;
      shown++;
      const texts = [...svg.querySelectorAll("text")].map(t => [t, t.getBoundingClientRect()]);
      texts.forEach(([t, r], i) => {
        if (r.height < 9) say("too small to read: " + name(t));
        if (r.left < box.left - 1 || r.right > box.right + 1 || r.top < box.top - 1 || r.bottom > box.bottom + 1) say("clipped in a plot: " + name(t));
        for (const [u, q] of texts.slice(i + 1))
          if (r.left < q.right - 1 && q.left < r.right - 1 && r.top < q.bottom - 3 && q.top < r.bottom - 3) say("one over the other in a plot: " + name(t) + " | " + name(u));
      });
    }
    if (shown != doc.querySelectorAll("figure").length) say(shown + " plots are shown of " + doc.querySelectorAll("figure").length);
  }
  const n = document.querySelectorAll("iframe").length;
  document.body.textContent = "RESULT" + JSON.stringify({found: out, frames: n}) + "END";
});
</script>`

// look has the browser measure pages, from files, as most people will open them. It
// returns what is wrong with them: what does not fit, what a page asks for beside
// itself, and what the console says.
func look(t *testing.T, pages map[string]string) []string {
	t.Helper()
	dir := t.TempDir()
	save := func(name, text string) string {
		file := filepath.Join(dir, name+".html")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return "file://" + file
	}
	var frames strings.Builder
	want := 0
	for name, text := range pages {
		url := save(name, text)
		for _, w := range widths {
			fmt.Fprintf(&frames, `<iframe src="%s" title="%s at %d" style="border:0;width:%dpx;height:900px"></iframe>`, url, name, w, w)
			want++
		}
	}
	stdout, stderr := run(t, "--window-size=1400,1000", "--dump-dom", save("measure", fmt.Sprintf(measure, frames.String())))
	_, text, _ := strings.Cut(stdout, "RESULT")
	text, _, ok := strings.Cut(text, "END")
	var result struct {
		Found  []string
		Frames int
	}
	if err := json.Unmarshal([]byte(html.UnescapeString(text)), &result); err != nil || !ok || result.Frames != want {
		t.Fatalf("the browser measured %d pages of %d, error %v:\n%.2000s\n%s", result.Frames, want, err, stdout, stderr)
	}
	return append(result.Found, console(stderr)...)
}

func TestBrowser(t *testing.T) {
	pages := map[string]string{}
	for name, in := range cases() {
		pages[name], _ = write(t, in)
	}
	for _, w := range look(t, pages) {
		t.Error(w)
	}
}

// TestBrowserOracle shows that what is wrong with a page is seen.
func TestBrowserOracle(t *testing.T) {
	wrong := strings.Join(look(t, map[string]string{"bad": `<!DOCTYPE html><link rel="icon" href="data:,"><body style="margin:0">
<div style="width:2000px">wide</div><table style="table-layout:fixed;width:100px"><td>` + strings.Repeat("x", 500) + `</table>
<svg width="100" height="50"><text x="80" y="20">clipped at the right</text><text x="80" y="20">another one</text><text x="1" y="40" font-size="5">small</text></svg>
<img src="http://somewhere.example/x.png"><script>console.error("an error")</script>`}), "\n")
	for _, want := range []string{"scrolls sideways", "beyond the page", "beyond its box", "clipped in a plot", "one over the other", "too small", "request: http://somewhere.example/x.png", "an error"} {
		if !strings.Contains(wrong, want) {
			t.Errorf("%q was not found:\n%s", want, wrong)
		}
	}
}

// TestBrowserPictures makes pictures of pages, and prints one.
func TestBrowserPictures(t *testing.T) {
	dir := os.Getenv("SCREENSHOTS")
	if dir == "" {
		dir = t.TempDir()
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		t.Fatal(err)
	}
	all := cases()
	take := func(name, kind string, args ...string) {
		text, _ := write(t, all[name])
		file := filepath.Join(dir, name+".html")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		picture := filepath.Join(dir, name+"-"+kind)
		for i := range args {
			args[i] = strings.ReplaceAll(args[i], "FILE", picture)
		}
		_, stderr := run(t, append(args, "file://"+file)...)
		for _, c := range console(stderr) {
			t.Error(c)
		}
		if st, err := os.Stat(picture); err != nil || st.Size() < 10_000 {
			t.Errorf("the picture %s: %v, %v", picture, st, err)
		}
	}
	const light, dark = "--blink-settings=preferredColorScheme=1", "--blink-settings=preferredColorScheme=0"
	take("typical", "light.png", "--screenshot=FILE", "--window-size=1280,5200", light)
	take("typical", "dark.png", "--screenshot=FILE", "--window-size=1280,5200", dark)
	take("typical", "printed.pdf", "--print-to-pdf=FILE", "--no-pdf-header-footer", dark)
	pdf, err := os.ReadFile(filepath.Join(dir, "typical-printed.pdf"))
	if err != nil {
		t.Fatal(err)
	}
	// A whole report on few pages: what is folded is not printed.
	if n := bytes.Count(pdf, []byte("/Type /Page\n")); n < 2 || n > 3 {
		t.Errorf("it takes %d pages", n)
	}
	if os.Getenv("SCREENSHOTS") != "" {
		take("typical", "phone.png", "--screenshot=FILE", "--window-size=375,6500", dark)
		take("hostile", "light.png", "--screenshot=FILE", "--window-size=1280,6000", light)
		take("huge", "dark.png", "--screenshot=FILE", "--window-size=1280,4000", dark)
		take("resumed", "light.png", "--screenshot=FILE", "--window-size=1280,4200", light)
		take("resumed", "phone.png", "--screenshot=FILE", "--window-size=375,5200", light)
		take("resumed", "printed.pdf", "--print-to-pdf=FILE", "--no-pdf-header-footer", light)
		take("uncompared", "light.png", "--screenshot=FILE", "--window-size=1280,3000", light)
		take("empty", "light.png", "--screenshot=FILE", "--window-size=1280,2500", light)
	}
}
