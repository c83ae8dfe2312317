package checkpoint

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// electionPrefix begins the name of the file by which leaders are elected.
const electionPrefix = "leader-"

// elect finds out which ranks see the same directory as their store's, and says whether this one leads: on each file system one rank
// makes and removes checkpoints, rank 0 on its own. On one host, the device and inode tell directories apart. Between hosts they do
// not, and the first rank of each host tries to make a file of a name that is new to all: who can leads.
func (s *Store) elect(ctx context.Context) (leads bool, err error) {
	me := s.peers.Rank()
	if s.peers.Size() == 1 {
		return true, nil
	}
	candidate := filepath.Join(s.dir, electionPrefix+rand.Text()+partialSuffix)
	words, err := together(ctx, s, func(context.Context) (w directory, err error) {
		if w.Place, err = place(s.dir); err == nil && me == 0 {
			w.Name = filepath.Base(candidate)
			err = os.WriteFile(candidate, nil, 0o644)
		}
		return w, err
	})
	if err != nil {
		return false, err
	}
	first := 0 // the first rank of this host that has the directory
	for words[first].Place != words[me].Place {
		first++
	}
	candidate = filepath.Join(s.dir, words[0].Name)
	all, err := together(ctx, s, func(context.Context) (bool, error) {
		if me == 0 || first != me {
			return me == 0, nil
		}
		f, err := os.OpenFile(candidate, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
		if errors.Is(err, fs.ErrExist) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		return true, f.Close()
	})
	if err != nil {
		return false, err
	}
	s.leaders = 0
	for _, l := range all {
		if l {
			s.leaders++
		}
	}
	if all[me] {
		err = os.Remove(candidate)
	}
	return all[me], err
}

// directory is what a rank says of its store's directory. Name is rank 0's, of the file for the election.
type directory struct{ Place, Name string }

// place returns what stands for a directory: the same on two processes only if they see the same one. Processes on different hosts
// never have the same.
func place(dir string) (string, error) {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", err
	}
	var stat unix.Stat_t
	if err := unix.Stat(dir, &stat); err != nil {
		return "", fmt.Errorf("looking at %s: %w", dir, err)
	}
	return fmt.Sprintf("%s:%d:%d", strings.TrimSpace(string(boot)), stat.Dev, stat.Ino), nil
}
