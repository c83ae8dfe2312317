package collective

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// The variables by which a user gives ranks under another launcher their secret.
const (
	envSecret     = "LOCKSTEP_SECRET"
	envSecretFile = "LOCKSTEP_SECRET_FILE"
)

// maxSecretBytes bounds a secret, and the file that holds one.
const maxSecretBytes = 4096

// MeetOptions configure Meet.
type MeetOptions struct {
	// Getenv reads the environment.
	Getenv func(string) string
	// Timeout is how long ranks have to meet; 0 means 60 seconds.
	Timeout time.Duration
	// Log receives what the root decides and whom it refuses; nil means slog.Default().
	Log *slog.Logger
}

// A Meeting is where the ranks of a job find one another.
type Meeting struct {
	// Place is complete: it has the rendezvous.
	Place  Place
	Secret []byte

	root *Root  // on rank 0 under another launcher than ours
	file string // of rank 0, to be removed
}

// Meet finds the job's secret and its rendezvous. Under launch, launch has said both; a process started alone needs neither.
// Under another launcher rank 0 hosts the root of its job, and the others find it: at the address that the launcher or
// LOCKSTEP_RENDEZVOUS names or, on one host, through a file of mode 0600 in the runtime directory, which then also holds a
// random secret. Across hosts the secret must be given, in LOCKSTEP_SECRET or LOCKSTEP_SECRET_FILE: nothing that a launcher
// tells its ranks is secret.
//
// Close ends the meeting, after the World has been closed.
func Meet(ctx context.Context, p Place, o MeetOptions) (*Meeting, error) {
	m := &Meeting{Place: p}
	if p.Launcher == "" {
		var err error
		if p.SecretFD != 0 {
			m.Secret, err = ReadSecret(p.SecretFD)
		}
		return m, err
	}
	if o.Timeout == 0 {
		o.Timeout = defaultTimeout
	}
	secret, err := givenSecret(o.Getenv)
	if err != nil {
		return nil, err
	}
	m.Secret = secret
	ctx, cancel := context.WithTimeout(ctx, o.Timeout)
	defer cancel()
	if p.LocalSize == p.Size && o.Getenv(envRendezvous) == "" {
		err = m.onOneHost(ctx, o)
	} else {
		err = m.acrossHosts(o)
	}
	if err != nil {
		return nil, fmt.Errorf("rank %d of a job under %s: %w", p.Rank, p.Launcher, err)
	}
	return m, nil
}

// givenSecret returns the user's secret, nil if there is none.
func givenSecret(getenv func(string) string) ([]byte, error) {
	text, name := getenv(envSecret), getenv(envSecretFile)
	switch {
	case text != "" && name != "":
		return nil, fmt.Errorf("both %s and %s are set; leave one away", envSecret, envSecretFile)
	case name != "":
		b, err := readPrivate(name)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", envSecretFile, err)
		}
		text = strings.TrimSpace(string(b))
	case text == "":
		return nil, nil
	}
	if len(text) > maxSecretBytes {
		return nil, fmt.Errorf("the job's secret has %d bytes; at most %d are allowed", len(text), maxSecretBytes)
	}
	return []byte(text), checkSecret([]byte(text))
}

// readPrivate reads a file that nobody but its owner may read.
func readPrivate(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	owner, ok := info.Sys().(*syscall.Stat_t)
	switch {
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("%s is no regular file", name)
	case info.Mode().Perm()&0o077 != 0:
		return nil, fmt.Errorf("%s has mode %04o, so that others can read the secret; chmod 600 %s", name, info.Mode().Perm(), name)
	case !ok || int(owner.Uid) != os.Getuid():
		return nil, fmt.Errorf("%s belongs to another user", name)
	}
	b, err := io.ReadAll(io.LimitReader(f, maxSecretBytes+1))
	if err == nil && len(b) > maxSecretBytes {
		err = fmt.Errorf("%s is larger than %d bytes", name, maxSecretBytes)
	}
	return b, err
}

// A notice is what rank 0 leaves for the other ranks of its host.
type notice struct {
	Rendezvous string
	Secret     string // hexadecimal; empty where the user gave one
	Process    string // identity of rank 0's process: a notice whose writer is gone is stale
}

// onOneHost meets through a file in the runtime directory.
func (m *Meeting) onOneHost(ctx context.Context, o MeetOptions) error {
	dir, err := runtimeDirectory(o.Getenv)
	if err != nil {
		return err
	}
	file := filepath.Join(dir, "lockstep-"+m.Place.Job)
	if m.Place.Rank != 0 {
		return m.await(ctx, file)
	}
	n := notice{}
	if m.Secret == nil {
		m.Secret = make([]byte, SecretSize)
		rand.Read(m.Secret) // never fails
		n.Secret = hex.EncodeToString(m.Secret)
	}
	if err := m.host("127.0.0.1:0", o); err != nil {
		return err
	}
	n.Rendezvous = m.root.Addr()
	if n.Process, err = processIdentity("self"); err == nil {
		err = n.write(file)
	}
	if err != nil {
		m.root.Close()
		return err
	}
	m.Place.Rendezvous, m.file = n.Rendezvous, file
	return nil
}

// runtimeDirectory returns a directory of this user's that no other can write to.
func runtimeDirectory(getenv func(string) string) (string, error) {
	dir := getenv("XDG_RUNTIME_DIR")
	if dir == "" {
		dir = filepath.Join(os.TempDir(), "lockstep-"+strconv.Itoa(os.Getuid()))
		if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return "", fmt.Errorf("making the runtime directory: %w", err)
		}
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return "", fmt.Errorf("the runtime directory: %w", err)
	}
	owner, ok := info.Sys().(*syscall.Stat_t)
	if !info.IsDir() || info.Mode().Perm()&0o022 != 0 || !ok || int(owner.Uid) != os.Getuid() {
		return "", fmt.Errorf("the runtime directory %s is not this user's alone; set XDG_RUNTIME_DIR to one of mode 0700", dir)
	}
	return dir, nil
}

func (n notice) write(file string) error {
	b, err := json.Marshal(n)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(file), ".lockstep-*") // of mode 0600
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), file)
	}
	if err != nil {
		os.Remove(f.Name())
	}
	return err
}

// await waits for rank 0's notice.
func (m *Meeting) await(ctx context.Context, file string) error {
	for {
		var n notice
		b, err := readPrivate(file)
		if err == nil {
			err = json.Unmarshal(b, &n)
		}
		if err == nil {
			err = n.use(m)
		}
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("rank 0 has left no notice in %s: %w: %w", file, context.Cause(ctx), err)
		case <-time.After(dialPause):
		}
	}
}

// use takes over what a notice says.
func (n notice) use(m *Meeting) error {
	pid, _, _ := strings.Cut(n.Process, " ")
	if now, err := processIdentity(pid); err != nil || now != n.Process {
		return errors.New("the process that wrote it is gone")
	}
	if n.Secret != "" {
		secret, err := hex.DecodeString(n.Secret)
		if err != nil {
			return err
		}
		m.Secret = secret
	}
	m.Place.Rendezvous = n.Rendezvous
	return checkSecret(m.Secret)
}

// processIdentity returns the number and the start of a process, which together no other has.
func processIdentity(pid string) (string, error) {
	b, err := os.ReadFile("/proc/" + pid + "/stat")
	if err != nil {
		return "", err
	}
	number, rest, _ := strings.Cut(string(b), " ")
	fields := strings.Fields(rest[strings.LastIndexByte(rest, ')')+1:])
	const start = 19 // behind the name: state is the first, starttime the 20th
	if len(fields) <= start {
		return "", fmt.Errorf("/proc/%s/stat has %d fields", pid, len(fields))
	}
	return number + " " + fields[start], nil
}

// parentIdentity identifies the process that started this one.
func parentIdentity() (string, error) { return processIdentity(strconv.Itoa(os.Getppid())) }

// acrossHosts meets at an address.
func (m *Meeting) acrossHosts(o MeetOptions) error {
	p := &m.Place
	if m.Secret == nil {
		return fmt.Errorf("the job spans hosts, and has no secret: set %s, or %s to a file of mode 0600, to the same on all ranks", envSecret, envSecretFile)
	}
	if p.Rendezvous == "" {
		return fmt.Errorf("nothing says where rank 0 is; set %s=HOST:PORT, with the host of rank 0 and a free port there, on all ranks", envRendezvous)
	}
	host, port, err := net.SplitHostPort(p.Rendezvous)
	if err != nil {
		return fmt.Errorf("%s=%q: %w", envRendezvous, p.Rendezvous, err)
	}
	if p.Rank != 0 {
		return nil
	}
	address, err := net.ResolveIPAddr("ip", host)
	if err != nil {
		return fmt.Errorf("finding %s, where rank 0 is expected: %w; set %s=HOST:PORT on all ranks", host, err, envRendezvous)
	}
	if address.IP.IsLoopback() && p.LocalSize < p.Size && p.Address == "" {
		return fmt.Errorf("%s is %v, where other hosts do not reach rank 0; set %s=HOST:PORT on all ranks", host, address, envRendezvous)
	}
	err = m.host(net.JoinHostPort(address.String(), port), o)
	if errors.Is(err, syscall.EADDRNOTAVAIL) {
		err = fmt.Errorf("%w: rank 0 is not on that host; set %s=HOST:PORT, with the host of rank 0, on all ranks", err, envRendezvous)
	}
	return err
}

// host opens the root in this process.
func (m *Meeting) host(listen string, o MeetOptions) (err error) {
	m.root, err = NewRoot(RootOptions{
		Size: m.Place.Size, Job: m.Place.Job, Secret: m.Secret, Listen: listen, Timeout: o.Timeout, Log: o.Log,
	})
	return err
}

// Formed ends what is needed only until all ranks have joined: the notice in the runtime directory.
func (m *Meeting) Formed() {
	if m.file != "" {
		_ = os.Remove(m.file) // what is left there is stale as soon as this process has ended
		m.file = ""
	}
}

// Close returns when the ranks that this process has hosted have left, or after the time limit.
func (m *Meeting) Close(limit time.Duration) error {
	m.Formed()
	if m.root == nil {
		return nil
	}
	m.root.awaitLeave(limit)
	return m.root.Close()
}
