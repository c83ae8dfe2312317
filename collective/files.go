package collective

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"lockstep/kernels/device"
)

// A sharing makes memory that several ranks of a host see. Between processes it is files; tests under the race detector,
// which does not see mapped files, take the Go heap.
type sharing interface {
	// common returns zeroed memory that is the same for all of the given ranks. Each of them calls it with the same id.
	common(ctx context.Context, id uint64, ranks []int, bytes int, late func(rank int) error) (*mapping, error)
	// symmetric returns zeroed memory of this rank's, made by on, and a mapping of each given rank's, in their order. No rank takes
	// more than most bytes.
	symmetric(ctx context.Context, id uint64, ranks []int, bytes, most int, on FileAllocator, late func(rank int) error) (*device.Storage, []*mapping, error)
}

// A mapping is memory that is reached here and belongs to several ranks.
type mapping struct {
	mem  []byte
	free func() error
}

func (m *mapping) close() error {
	if m == nil || m.free == nil {
		return nil
	}
	free := m.free
	m.free, m.mem = nil, nil
	return free()
}

// files is sharing between processes. Memory is a file without a name (memfd_create), whose descriptor travels over a unix
// socket (SCM_RIGHTS): the pages live as long as somebody maps them, and a crash leaves nothing behind. The files are
// sealed against changes of their size, so that no process can make another's access fault.
type files struct{ world *World }

// A memoryFile is a file of zeroed pages.
type memoryFile struct{ fd int }

const sealed = unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_SEAL

// newMemoryFile makes a file of the given size, which cannot be changed any more.
func newMemoryFile(bytes int) (*memoryFile, error) {
	fd, err := unix.MemfdCreate("lockstep", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	f := &memoryFile{fd}
	if err := unix.Ftruncate(fd, int64(bytes)); err != nil {
		f.close()
		return nil, os.NewSyscallError("ftruncate", err)
	}
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, sealed); err != nil {
		f.close()
		return nil, os.NewSyscallError("sealing a memory file", err)
	}
	return f, nil
}

// reserve takes the file's pages now, so that memory which is not there is an error here and no crash later.
func (f *memoryFile) reserve(bytes int) error {
	return os.NewSyscallError("fallocate", unix.Fallocate(f.fd, 0, 0, int64(bytes)))
}

// check verifies a file that came from another process.
func (f *memoryFile) check(bytes int) error {
	var stat unix.Stat_t
	if err := unix.Fstat(f.fd, &stat); err != nil {
		return err
	}
	seals, err := unix.FcntlInt(uintptr(f.fd), unix.F_GET_SEALS, 0)
	if err != nil || seals&sealed != sealed || stat.Size != int64(bytes) {
		return fmt.Errorf("a file of %d bytes with seals %#x where a sealed one of %d bytes was expected", stat.Size, seals, bytes)
	}
	return nil
}

// mapped maps the file.
func (f *memoryFile) mapped(bytes int) (*mapping, error) {
	mem, err := unix.Mmap(f.fd, 0, bytes, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, os.NewSyscallError("mmap", err)
	}
	_ = unix.Madvise(mem, unix.MADV_HUGEPAGE) // only a hint
	return &mapping{mem, func() error { return unix.Munmap(mem) }}, nil
}

// close closes the descriptor. Mappings stay.
func (f *memoryFile) close() { _ = unix.Close(f.fd) }

func closeFiles(fs []*memoryFile) {
	for _, f := range fs {
		f.close()
	}
}

// common makes one file, at the first of the ranks, and hands it to the others.
func (s *files) common(ctx context.Context, id uint64, ranks []int, bytes int, late func(rank int) error) (*mapping, error) {
	bytes = max(bytes, 1)
	var mine []*memoryFile
	if s.world.Rank() == ranks[0] {
		f, err := newMemoryFile(bytes)
		if err != nil {
			return nil, err
		}
		mine = append(mine, f)
	}
	all, err := s.exchange(ctx, id, ranks, bytes, mine, late)
	defer closeFiles(all)
	if err != nil {
		return nil, err
	}
	return all[0].mapped(bytes)
}

// symmetric makes one file at each of the ranks, and hands all to all. The files have the same size, but pages only where their ranks
// need them.
func (s *files) symmetric(ctx context.Context, id uint64, ranks []int, bytes, most int, on FileAllocator, late func(rank int) error) (*device.Storage, []*mapping, error) {
	most = max(most, 1)
	own, err := newMemoryFile(most)
	if err == nil {
		err = own.reserve(max(bytes, 1))
	}
	if err != nil {
		return nil, nil, err
	}
	all, err := s.exchange(ctx, id, ranks, most, []*memoryFile{own}, late)
	defer closeFiles(all)
	if err != nil {
		return nil, nil, err
	}
	var mappings []*mapping
	for _, f := range all {
		m, err := f.mapped(most)
		if err != nil {
			return nil, nil, errors.Join(err, closeMappings(mappings))
		}
		mappings = append(mappings, m)
	}
	storage, err := on.AllocFile(all[slices.Index(ranks, s.world.Rank())].fd, bytes)
	if err != nil {
		return nil, nil, errors.Join(err, closeMappings(mappings))
	}
	return storage, mappings, nil
}

func closeMappings(ms []*mapping) error {
	var errs []error
	for _, m := range ms {
		errs = append(errs, m.close())
	}
	return errors.Join(errs...)
}

// An exchange goes through the first of the ranks. Each other one sends it an announcement with the files that it has; when
// all have come, the first sends each a verdict and all files.
//
//	announcement: 8 bytes: the size of the files
//	verdict:      24 bytes: the first's size, a rank and its size, the number of files that follow
//
// The rank of the verdict is one that announced another size, none (^0) when all agree.
const (
	announcementBytes = 8
	verdictBytes      = 8 + 4 + 8 + 4
	nobody            = ^uint32(0)
	// maxFilesInMessage is below the kernel's limit of 253 descriptors in one message.
	maxFilesInMessage = 250
)

// exchange returns the files of all ranks, in their order. It owns mine, and the caller owns what it returns, also when it
// fails.
func (s *files) exchange(ctx context.Context, id uint64, ranks []int, bytes int, mine []*memoryFile, late func(rank int) error) ([]*memoryFile, error) {
	conns, err := s.world.meet(ctx, id, ranks, late)
	if err != nil {
		return mine, err
	}
	defer closeAll(conns)
	stop := context.AfterFunc(ctx, func() { closeAll(conns) })
	defer stop()
	for _, conn := range conns {
		if err := conn.SetDeadline(deadlineOf(ctx)); err != nil {
			return mine, err
		}
	}
	if s.world.Rank() == ranks[0] {
		return s.collect(conns, ranks, bytes, mine)
	}
	defer closeFiles(mine)
	return s.contribute(conns[0], ranks[0], bytes, mine)
}

// collect is the first rank's part of an exchange.
func (s *files) collect(conns []*net.UnixConn, ranks []int, bytes int, all []*memoryFile) ([]*memoryFile, error) {
	wrong, size := nobody, uint64(0)
	for i, conn := range conns {
		var b [announcementBytes]byte
		got, err := receiveFiles(conn, b[:])
		all = append(all, got...)
		if err != nil {
			return all, s.explain(ranks[i+1], err)
		}
		if n := binary.BigEndian.Uint64(b[:]); n != uint64(bytes) && wrong == nobody {
			wrong, size = uint32(ranks[i+1]), n
		}
		for _, f := range got {
			if err := f.check(bytes); err != nil && wrong == nobody {
				return all, s.explain(ranks[i+1], err)
			}
		}
	}
	verdict := binary.BigEndian.AppendUint64(nil, uint64(bytes))
	verdict = binary.BigEndian.AppendUint32(verdict, wrong)
	verdict = binary.BigEndian.AppendUint64(verdict, size)
	if wrong != nobody {
		verdict = binary.BigEndian.AppendUint32(verdict, 0)
		for _, conn := range conns {
			_, _ = conn.Write(verdict) // who does not get it sees the connection end
		}
		return all, unequal(wrong, size, ranks[0], uint64(bytes))
	}
	verdict = binary.BigEndian.AppendUint32(verdict, uint32(len(all)))
	for i, conn := range conns {
		if err := sendFiles(conn, verdict, all); err != nil {
			return all, s.explain(ranks[i+1], err)
		}
	}
	return all, nil
}

func unequal(rank uint32, size uint64, first int, bytes uint64) error {
	return fmt.Errorf("rank %d takes %d bytes where rank %d takes %d; all ranks of a host must take the same amounts in the same order", rank, size, first, bytes)
}

// contribute is any other rank's part.
func (s *files) contribute(conn *net.UnixConn, first, bytes int, mine []*memoryFile) ([]*memoryFile, error) {
	if err := sendFiles(conn, binary.BigEndian.AppendUint64(nil, uint64(bytes)), mine); err != nil {
		return nil, s.explain(first, err)
	}
	var verdict [verdictBytes]byte
	all, err := receiveFiles(conn, verdict[:])
	if err != nil {
		return all, s.explain(first, err)
	}
	if wrong := binary.BigEndian.Uint32(verdict[8:]); wrong != nobody {
		return all, unequal(wrong, binary.BigEndian.Uint64(verdict[12:]), first, binary.BigEndian.Uint64(verdict[:]))
	}
	count := binary.BigEndian.Uint32(verdict[20:])
	for len(all) < int(count) {
		var more [1]byte
		got, err := receiveFiles(conn, more[:])
		all = append(all, got...)
		if err != nil {
			return all, s.explain(first, err)
		}
		if len(got) == 0 {
			return all, s.explain(first, errors.New("it sent fewer files than it announced"))
		}
	}
	for _, f := range all {
		if err := f.check(bytes); err != nil {
			return all, s.explain(first, err)
		}
	}
	return all, nil
}

// explain finds the cause of a connection that broke: the job's failure, where there is one.
func (s *files) explain(rank int, err error) error {
	if cause := s.world.causeWithin(graceTime); cause != nil {
		return cause
	}
	return fmt.Errorf("exchanging memory with rank %d: %w", rank, err)
}

// sendFiles sends a message and, with it and with as many bytes after it as are needed, the files' descriptors.
func sendFiles(conn *net.UnixConn, message []byte, fs []*memoryFile) error {
	for {
		part := fs[:min(len(fs), maxFilesInMessage)]
		fds := make([]int, len(part))
		for i, f := range part {
			fds[i] = f.fd
		}
		var rights []byte
		if len(fds) > 0 {
			rights = unix.UnixRights(fds...)
		}
		if _, _, err := conn.WriteMsgUnix(message, rights, nil); err != nil {
			return err
		}
		if fs = fs[len(part):]; len(fs) == 0 {
			return nil
		}
		message = []byte{0}
	}
}

// receiveFiles fills b, and returns the files whose descriptors come with it.
func receiveFiles(conn *net.UnixConn, b []byte) ([]*memoryFile, error) {
	oob := make([]byte, unix.CmsgSpace(4*maxFilesInMessage))
	n, oobn, flags, _, err := conn.ReadMsgUnix(b, oob)
	if err != nil {
		return nil, noEOF(err)
	}
	messages, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil {
		return nil, err
	}
	var fs []*memoryFile
	for i := range messages {
		fds, err := unix.ParseUnixRights(&messages[i])
		if err != nil {
			return fs, err
		}
		for _, fd := range fds {
			fs = append(fs, &memoryFile{fd})
		}
	}
	if flags&unix.MSG_CTRUNC != 0 {
		return fs, errors.New("descriptors were lost; the limit of open files is too low")
	}
	if n == 0 {
		return fs, io.ErrUnexpectedEOF
	}
	_, err = io.ReadFull(conn, b[n:])
	return fs, noEOF(err)
}
