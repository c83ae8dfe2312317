package train

import (
	"errors"

	"lockstep/collective"
	"lockstep/kernels"
	"lockstep/kernels/device"
	"lockstep/spmd/checkpoint"
)

// peers are all ranks of the run, as a store of checkpoints knows them. Their group is its own, as saves in the background talk
// while steps do.
type peers struct {
	collective.Group
	device kernels.Device
	stream device.Stream
}

// Exchange implements checkpoint.Peers, by way of the device's memory.
func (p *peers) Exchange(transfers []checkpoint.Transfer) (err error) {
	bytes := 0
	for _, t := range transfers {
		bytes += len(t.Data)
	}
	staging, err := p.device.Alloc(bytes)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, staging.Free()) }()
	list, at := make([]collective.Transfer, len(transfers)), 0
	for i, t := range transfers {
		list[i] = collective.Transfer{Peer: t.Peer, Buf: device.Region{Storage: staging, Offset: at, Bytes: len(t.Data)}, Receive: t.Receive}
		if !t.Receive {
			p.device.Write(p.stream, list[i].Buf, t.Data)
		}
		at += len(t.Data)
	}
	if err := p.Group.Exchange(list, p.stream.Record()).Synchronize(); err != nil {
		return err
	}
	for i, t := range transfers {
		if t.Receive {
			if err := p.device.Read(p.stream, t.Data, list[i].Buf); err != nil {
				return err
			}
		}
	}
	return nil
}
