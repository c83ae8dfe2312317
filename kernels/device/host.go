package device

import "fmt"

// WriteHost is Device.Write for devices whose streams are HostStreams.
func WriteHost(s Stream, dst Region, src []byte) {
	launchCopy(s, &copyWork{name: "Write", region: dst, host: append([]byte(nil), src...), write: true})
}

// ReadHost is Device.Read for devices whose streams are HostStreams.
func ReadHost(s Stream, dst []byte, src Region) error {
	launchCopy(s, &copyWork{name: "Read", region: src, host: dst})
	return s.Synchronize()
}

func launchCopy(s Stream, w *copyWork) {
	h, ok := s.(HostStream)
	switch {
	case !ok:
		s.Fail(fmt.Errorf("%s: stream %s (%T) does not run host code", w.name, s.Name(), s))
	case w.region.Bytes != len(w.host):
		s.Fail(fmt.Errorf("%s: the region has %d bytes, the host's memory %d", w.name, w.region.Bytes, len(w.host)))
	default:
		h.Launch(w)
	}
}

// copyWork copies between a region and host memory.
type copyWork struct {
	name   string
	region Region
	host   []byte
	write  bool
}

func (w *copyWork) Name() string { return w.name }

func (w *copyWork) Accesses(visit func(r Region, write bool)) { visit(w.region, w.write) }

func (w *copyWork) Run() error {
	if w.write {
		copy(w.region.Mapped(), w.host)
	} else {
		copy(w.host, w.region.Mapped())
	}
	return nil
}
