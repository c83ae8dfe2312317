package deferred_test

import (
	"runtime/debug"
	"strings"
	"testing"
	"unsafe"

	"lockstep/kernels"
	"lockstep/kernels/conformance"
	"lockstep/kernels/cpu"
	"lockstep/kernels/deferred"
	"lockstep/kernels/device"
)

func open(t *testing.T, o cpu.Options) *deferred.Device {
	t.Helper()
	d, err := deferred.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

func tensor(t *testing.T, d *deferred.Device, n int) kernels.Tensor {
	t.Helper()
	s, err := d.Alloc(4 * n)
	if err != nil {
		t.Fatal(err)
	}
	return kernels.NewTensor(s, 0, device.Float32, n)
}

func TestConformance(t *testing.T) {
	conformance.Run(t, func(t *testing.T) (kernels.Device, device.Stream) {
		d := open(t, cpu.Options{Threads: 2})
		return d, d.NewStream("test")
	})
}

// TestDigest checks that a deferred run has the bits of one on an inline stream.
func TestDigest(t *testing.T) {
	inline := conformance.Digest(t, func(t *testing.T) (kernels.Device, device.Stream) {
		d, err := cpu.New(cpu.Options{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = d.Close() })
		return d, d.NewInlineStream("inline")
	})
	later := conformance.Digest(t, func(t *testing.T) (kernels.Device, device.Stream) {
		d := open(t, cpu.Options{Threads: 2})
		return d, d.NewStream("later")
	})
	for name, want := range inline {
		if later[name] != want {
			t.Errorf("%s: %s deferred, %s inline", name, later[name], want)
		}
	}
}

// load reads a byte through a storage's address, as host code that forgot Read would.
func load(address uintptr) (b byte, fault any) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() { fault = recover() }()
	return **(**byte)(unsafe.Pointer(&address)), nil
}

func TestHostReadFaults(t *testing.T) {
	d := open(t, cpu.Options{})
	x := tensor(t, d, 4)
	if _, fault := load(x.Storage.Address()); fault == nil {
		t.Fatal("a host read of device memory went through")
	}
	got := []float32{1, 1, 1, 1}
	if err := d.Read(d.NewStream("test"), device.BytesOf(got), x.Region()); err != nil || got[0] != 0 {
		t.Fatalf("Read after the fault: %v, %v", got, err)
	}
}

// gate is work that writes a region and says when it ran, such as a collective.
type gate struct {
	name  string
	r     device.Region
	write bool
	ran   chan struct{}
}

func (g *gate) Name() string                                     { return g.name }
func (g *gate) Accesses(visit func(r device.Region, write bool)) { visit(g.r, g.write) }
func (g *gate) Run() error                                       { close(g.ran); return nil }

// TestWorkStartsByItself checks that work starts though nobody waits for it: another rank may.
func TestWorkStartsByItself(t *testing.T) {
	d := open(t, cpu.Options{})
	g := &gate{name: "all-reduce", r: tensor(t, d, 1).Region(), ran: make(chan struct{})}
	d.NewStream("comm").(device.HostStream).Launch(g)
	<-g.ran
}

func wantMissingWait(t *testing.T, err error, parts ...string) {
	t.Helper()
	for _, part := range append(parts, "must wait for an event") {
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Fatalf("the error is %v; expected it to say %q", err, parts)
		}
	}
}

func TestMissingWait(t *testing.T) {
	for _, test := range []struct {
		name   string
		first  func(d *deferred.Device, s device.Stream, x, y kernels.Tensor)
		second func(d *deferred.Device, s device.Stream, x, y kernels.Tensor)
		want   []string
	}{
		{
			"read after write",
			func(d *deferred.Device, s device.Stream, x, y kernels.Tensor) { d.Zero(s, x) },
			func(d *deferred.Device, s device.Stream, x, y kernels.Tensor) { d.Copy(s, y, x) },
			[]string{"Copy on stream two reads", "Zero on stream one writes"},
		},
		{
			"write after read",
			func(d *deferred.Device, s device.Stream, x, y kernels.Tensor) { d.Copy(s, y, x) },
			func(d *deferred.Device, s device.Stream, x, y kernels.Tensor) { d.Zero(s, x.Narrow(0, 3, 4)) },
			[]string{"Zero on stream two writes", "Copy on stream one reads"},
		},
		{
			"write after write",
			func(d *deferred.Device, s device.Stream, x, y kernels.Tensor) { d.Zero(s, x.Narrow(0, 0, 5)) },
			func(d *deferred.Device, s device.Stream, x, y kernels.Tensor) { d.Zero(s, x.Narrow(0, 4, 8)) },
			[]string{"Zero on stream two writes", "Zero on stream one writes"},
		},
		{
			"host read",
			func(d *deferred.Device, s device.Stream, x, y kernels.Tensor) { d.Zero(s, x) },
			func(d *deferred.Device, s device.Stream, x, y kernels.Tensor) {
				_ = d.Read(s, make([]byte, 4), x.Narrow(0, 7, 8).Region()) // the error stays on the stream
			},
			[]string{"Read on stream two reads", "Zero on stream one writes"},
		},
		{
			"collective",
			func(d *deferred.Device, s device.Stream, x, y kernels.Tensor) { d.AddBias(s, x, y) },
			func(d *deferred.Device, s device.Stream, x, y kernels.Tensor) {
				s.(device.HostStream).Launch(&gate{name: "all-reduce", r: x.Region(), write: true, ran: make(chan struct{})})
			},
			[]string{"all-reduce on stream two writes", "AddBias on stream one writes"},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			d := open(t, cpu.Options{})
			x, y := tensor(t, d, 8), tensor(t, d, 8)
			one, two := d.NewStream("one"), d.NewStream("two")
			test.first(d, one, x, y)
			test.second(d, two, x, y)
			wantMissingWait(t, two.Synchronize(), test.want...)
			if err := one.Synchronize(); err != nil {
				t.Fatalf("the stream that came first failed too: %v", err)
			}

			// The same with the wait in place.
			one, two = d.NewStream("one"), d.NewStream("two")
			test.first(d, one, x, y)
			two.Wait(one.Record())
			test.second(d, two, x, y)
			if err := two.Synchronize(); err != nil {
				t.Fatalf("with the wait in place: %v", err)
			}
		})
	}
}

// TestMasksAreOperands checks that positions and documents, which say what an operator does with its other operands, are
// operands too: work that overwrites them must wait.
func TestMasksAreOperands(t *testing.T) {
	for _, test := range []struct {
		name   string
		launch func(d *deferred.Device, s device.Stream, x, y, tables, statistics, numbers kernels.Tensor)
	}{
		{"RoPE", func(d *deferred.Device, s device.Stream, x, y, tables, _, numbers kernels.Tensor) {
			d.RoPE(s, y, x, tables, tables, numbers, kernels.RoPEOptions{})
		}},
		{"Attention", func(d *deferred.Device, s device.Stream, x, y, _, statistics, numbers kernels.Tensor) {
			d.Attention(s, y, statistics, x, x, x, kernels.AttentionOptions{Causal: true, Documents: numbers})
		}},
	} {
		d := open(t, cpu.Options{})
		x, y := tensor(t, d, 8).Reshape(1, 2, 1, 4), tensor(t, d, 8).Reshape(1, 2, 1, 4)
		tables, statistics, numbers := tensor(t, d, 8).Reshape(2, 4), tensor(t, d, 2).Reshape(1, 1, 2), tensor(t, d, 2)
		numbers.DType = device.Int32
		one, two := d.NewStream("one"), d.NewStream("two")
		test.launch(d, one, x, y, tables, statistics, numbers.Reshape(1, 2))
		d.Zero(two, numbers)
		wantMissingWait(t, two.Synchronize(), "Zero on stream two writes", test.name+" on stream one reads")
		if err := one.Synchronize(); err != nil {
			t.Errorf("%s itself: %v", test.name, err)
		}
	}
}

func TestReadersNeedNoOrder(t *testing.T) {
	d := open(t, cpu.Options{})
	x := tensor(t, d, 8)
	one, two, three := d.NewStream("one"), d.NewStream("two"), d.NewStream("three")
	d.Copy(one, tensor(t, d, 8), x)
	d.Copy(two, tensor(t, d, 8), x)
	if err := two.Synchronize(); err != nil {
		t.Fatalf("two readers: %v", err)
	}
	// A writer must wait for all readers, not for the last one only.
	d.Copy(one, tensor(t, d, 8), x)
	d.Copy(two, tensor(t, d, 8), x)
	three.Wait(two.Record())
	d.Zero(three, x)
	wantMissingWait(t, three.Synchronize(), "Zero on stream three writes", "Copy on stream one reads")
}

func TestOrderIsTransitive(t *testing.T) {
	d := open(t, cpu.Options{})
	x := tensor(t, d, 8)
	a, b, c := d.NewStream("a"), d.NewStream("b"), d.NewStream("c")
	d.Zero(c, x)
	b.Wait(c.Record())
	a.Wait(b.Record())
	d.Zero(a, x)
	if err := a.Synchronize(); err != nil {
		t.Fatalf("a waits for b, b for c: %v", err)
	}
}

func TestAnOldEventOrdersNothingLater(t *testing.T) {
	d := open(t, cpu.Options{})
	x := tensor(t, d, 8)
	one, two := d.NewStream("one"), d.NewStream("two")
	early := one.Record()
	d.Zero(one, x)
	two.Wait(early)
	d.Zero(two, x)
	wantMissingWait(t, two.Synchronize(), "Zero on stream two writes")
}

func TestTheHostOrders(t *testing.T) {
	d := open(t, cpu.Options{})
	x := tensor(t, d, 8)
	one, two, three := d.NewStream("one"), d.NewStream("two"), d.NewStream("three")
	d.Zero(one, x)
	two.Wait(one.Record())
	if err := two.Record().Synchronize(); err != nil {
		t.Fatal(err)
	}
	d.Zero(three, x) // the host has waited for two, which waited for one
	if err := three.Synchronize(); err != nil {
		t.Fatal(err)
	}
}

// TestBordersAreExact checks ranges that were split: bytes that only one stream touched stay free for it.
func TestBordersAreExact(t *testing.T) {
	d := open(t, cpu.Options{})
	x := tensor(t, d, 100)
	one, two := d.NewStream("one"), d.NewStream("two")
	d.Zero(one, x.Narrow(0, 0, 50))
	d.Zero(two, x.Narrow(0, 50, 100))
	d.Copy(one, tensor(t, d, 30), x.Narrow(0, 10, 40))
	d.Zero(one, x.Narrow(0, 20, 21))
	d.Zero(two, x.Narrow(0, 50, 51))
	if err := one.Synchronize(); err != nil {
		t.Fatal(err)
	}
	d.Zero(one, x.Narrow(0, 49, 50))
	d.Copy(two, tensor(t, d, 2), x.Narrow(0, 49, 51))
	wantMissingWait(t, two.Synchronize(), "Copy on stream two reads", "Zero on stream one writes")
}

// TestLongRun checks that bookkeeping does not grow with the number of steps.
func TestLongRun(t *testing.T) {
	d := open(t, cpu.Options{})
	x, y := tensor(t, d, 64), tensor(t, d, 64)
	compute, comm := d.NewStream("compute"), d.NewStream("comm")
	for range 2000 {
		for i := range 8 {
			d.Add(compute, x.Narrow(0, 8*i, 8*i+8), x.Narrow(0, 8*i, 8*i+8), y.Narrow(0, 8*i, 8*i+8))
		}
		comm.Wait(compute.Record())
		d.Copy(comm, y, x)
		compute.Wait(comm.Record())
		if err := d.Read(compute, make([]byte, 4), y.Narrow(0, 0, 1).Region()); err != nil {
			t.Fatal(err)
		}
	}
	if spans, snapshots := d.Bookkeeping(); spans > 32 || snapshots > 8 {
		t.Errorf("%d spans and %d snapshots are left after 2000 steps", spans, snapshots)
	}
}
