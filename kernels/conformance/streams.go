package conformance

import (
	"bytes"
	"errors"

	"lockstep/kernels/device"
)

// testReadWrite checks copies between the host and device memory.
func testReadWrite(s *suite) {
	storage, err := s.d.Alloc(10)
	if err != nil {
		s.t.Fatal(err)
	}
	all := device.Region{Storage: storage, Bytes: 10}
	got := bytes.Repeat([]byte{9}, 10)
	if err := s.d.Read(s.s, got, all); err != nil || !bytes.Equal(got, make([]byte, 10)) {
		s.t.Fatalf("new memory holds %v (error %v), expected zeros", got, err)
	}
	src := []byte{1, 2, 3, 4}
	s.d.Write(s.s, all.Slice(3, 7), src)
	clear(src) // may be reused at once
	want := []byte{0, 0, 0, 1, 2, 3, 4, 0, 0, 0}
	if err := s.d.Read(s.s, got, all); err != nil || !bytes.Equal(got, want) {
		s.t.Fatalf("after Write: %v (error %v), expected %v", got, err, want)
	}
	for _, part := range []int{0, 1, 2} {
		stream := s.d.NewStream("sizes")
		switch part {
		case 0:
			s.wantError(s.d.Read(stream, got[:5], all), "Read: ", "10 bytes")
		case 1:
			s.d.Write(stream, all, got[:5])
			s.wantError(stream.Synchronize(), "Write: ", "10 bytes")
		case 2:
			if err := s.d.Read(stream, nil, all.Slice(4, 4)); err != nil {
				s.t.Fatalf("reading nothing: %v", err)
			}
		}
	}
	if err := storage.Free(); err != nil {
		s.t.Fatalf("Free: %v", err)
	}
}

// testEvents sends a value back and forth between two streams, each waiting for the other's event.
func testEvents(s *suite) {
	one := s.operand(device.Float32, layout{}, func(int) float64 { return 1 }, 1000)
	x := s.operand(device.Float32, layout{}, func(int) float64 { return 0 }, 1000)
	other := s.d.NewStream("other")
	const rounds = 50
	for range rounds {
		other.Wait(s.s.Record())
		s.d.Add(other, x.Tensor, x.Tensor, one.Tensor)
		s.s.Wait(other.Record())
		s.d.Add(s.s, x.Tensor, x.Tensor, one.Tensor)
	}
	event := s.s.Record()
	if err := event.Synchronize(); err != nil {
		s.t.Fatal(err)
	}
	want := make([]float64, 1000)
	for i := range want {
		want[i] = 2 * rounds
	}
	s.check("x", x, want, tolerance{})
	if err := (device.Event{}).Synchronize(); err != nil {
		s.t.Fatalf("the zero event: %v", err)
	}
	s.s.Wait(device.Event{})
	s.s.Wait(s.s.Record())
	if err := s.s.Synchronize(); err != nil {
		s.t.Fatalf("after waiting for itself: %v", err)
	}
}

// testFailedEvents checks that a failure travels to the streams that wait for it, and to no others.
func testFailedEvents(s *suite) {
	planted := errors.New("the planted failure")
	failing, waiting, third := s.d.NewStream("failing"), s.d.NewStream("waiting"), s.d.NewStream("third")
	before := failing.Record()
	failing.Fail(planted)
	after := failing.Record()
	if err := before.Synchronize(); err != nil {
		s.t.Fatalf("an event from before the failure: %v", err)
	}
	if err := after.Synchronize(); !errors.Is(err, planted) {
		s.t.Fatalf("an event from after the failure: %v, expected %v", err, planted)
	}
	waiting.Wait(after)
	third.Wait(waiting.Record())
	if err := third.Synchronize(); !errors.Is(err, planted) {
		s.t.Fatalf("a stream that waits for one that waits for the failed one: %v, expected %v", err, planted)
	}
	if err := s.s.Synchronize(); err != nil {
		s.t.Fatalf("a stream that waits for nobody: %v", err)
	}
}
