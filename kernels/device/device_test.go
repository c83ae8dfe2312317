package device

import (
	"errors"
	"slices"
	"strings"
	"testing"
)

func TestDType(t *testing.T) {
	for d, want := range map[DType]struct {
		name string
		size int
	}{
		Float32: {"float32", 4}, BFloat16: {"bfloat16", 2}, Float16: {"float16", 2}, Float64: {"float64", 8},
		Int32: {"int32", 4}, Int64: {"int64", 8}, Uint8: {"uint8", 1}, 0: {"dtype(0)", 0}, 200: {"dtype(200)", 0},
	} {
		if d.String() != want.name || d.Size() != want.size {
			t.Errorf("dtype %d is %v of %d bytes, expected %s of %d", uint8(d), d, d.Size(), want.name, want.size)
		}
	}
}

func TestRegion(t *testing.T) {
	mem := []byte{0, 1, 2, 3, 4, 5, 6, 7}
	s, other := NewStorage(0, mem, 8, nil), NewStorage(0, nil, 8, nil)
	r := Region{Storage: s, Offset: 2, Bytes: 5}
	if got := r.Slice(1, 3); got != (Region{Storage: s, Offset: 3, Bytes: 2}) || !slices.Equal(got.Mapped(), mem[3:5]) {
		t.Errorf("Slice(1, 3) of %v is %v with %v", r, got, got.Mapped())
	}
	if m := r.Mapped(); cap(m) != 5 {
		t.Errorf("appending to a region's memory would write beyond it: capacity %d of %d bytes", cap(m), len(m))
	}
	if (Region{}).Mapped() != nil || (Region{Storage: other, Bytes: 8}).Mapped() != nil {
		t.Error("memory appeared where the host can address none")
	}
	for _, test := range []struct {
		o    Region
		want bool
	}{
		{Region{s, 0, 2}, false}, {Region{s, 0, 3}, true}, {Region{s, 6, 2}, true}, {Region{s, 7, 1}, false},
		{Region{s, 3, 1}, true}, {Region{other, 2, 5}, false},
	} {
		if r.Overlaps(test.o) != test.want || test.o.Overlaps(r) != test.want {
			t.Errorf("[2, 7) and [%d, %d) overlap: expected %v", test.o.Offset, test.o.Offset+test.o.Bytes, test.want)
		}
	}
}

func TestStorageFree(t *testing.T) {
	calls := 0
	broken := errors.New("cannot unmap")
	s := NewStorage(16, []byte{1}, 1, func() error { calls++; return broken })
	if s.Address() != 16 || s.Bytes() != 1 {
		t.Errorf("address %d, %d bytes", s.Address(), s.Bytes())
	}
	if err := s.Free(); err != broken || calls != 1 {
		t.Errorf("Free: %v after %d calls", err, calls)
	}
	if err := s.Free(); err != nil || calls != 1 {
		t.Errorf("the second Free: %v after %d calls", err, calls)
	}
	if (Region{Storage: s, Bytes: 1}).Mapped() != nil {
		t.Error("freed memory is still reachable")
	}
}

func TestBytesOf(t *testing.T) {
	x := []int32{1, -1}
	b := BytesOf(x)
	if !slices.Equal(b, []byte{1, 0, 0, 0, 255, 255, 255, 255}) {
		t.Errorf("the bytes of %v are %v", x, b)
	}
	b[0] = 7
	if x[0] != 7 {
		t.Error("the bytes are a copy")
	}
	if BytesOf([]float64{}) != nil {
		t.Error("an empty slice has bytes")
	}
}

// plain is a stream that does not run host code, such as an accelerator's; host is one that does, at once.
type plain struct{ err error }

func (s *plain) Name() string                   { return "plain" }
func (s *plain) Record() Event                  { return Event{Stream: s, Ticket: 5} }
func (s *plain) Wait(Event)                     {}
func (s *plain) Synchronize() error             { return s.err }
func (s *plain) SynchronizeTicket(uint64) error { return s.err }
func (s *plain) Fail(err error)                 { s.err = err }

type host struct{ plain }

func (s *host) Launch(w Work) { s.err = w.Run() }

func TestHostCopies(t *testing.T) {
	storage := NewStorage(0, make([]byte, 4), 4, nil)
	all := Region{Storage: storage, Bytes: 4}
	s := &host{}
	src := []byte{1, 2, 3, 4}
	WriteHost(s, all, src)
	got := make([]byte, 2)
	if err := ReadHost(s, got, all.Slice(1, 3)); err != nil || !slices.Equal(got, []byte{2, 3}) {
		t.Errorf("read %v, %v", got, err)
	}
	if err := ReadHost(s, got, all); err == nil || !strings.Contains(err.Error(), "4 bytes") {
		t.Errorf("reading 4 bytes into 2: %v", err)
	}
	if err := ReadHost(&plain{}, got, all); err == nil || !strings.Contains(err.Error(), "plain") {
		t.Errorf("reading through a stream without host code: %v", err)
	}
}

func TestEventSynchronize(t *testing.T) {
	broken := errors.New("broken")
	if err := (Event{Stream: &plain{err: broken}}).Synchronize(); err != broken {
		t.Errorf("the event of a failed stream: %v", err)
	}
	if err := (Event{}).Synchronize(); err != nil {
		t.Errorf("the zero event: %v", err)
	}
}
