package deferred

// Bookkeeping returns how many spans and snapshots the device keeps.
func (d *Device) Bookkeeping() (spans, snapshots int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, s := range d.spans {
		spans += len(s)
	}
	for _, s := range d.streams {
		snapshots += len(s.history)
	}
	return spans, snapshots
}
