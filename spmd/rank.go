package main

import (
	"fmt"
	"os"

	"lockstep/collective"
)

// otherLaunchers are environment variables by which other launchers tell the number of ranks.
var otherLaunchers = []struct{ size, name string }{
	{"OMPI_COMM_WORLD_SIZE", "mpirun"}, {"PMI_SIZE", "mpiexec"}, {"SLURM_STEP_NUM_TASKS", "srun"}, {"WORLD_SIZE", "torchrun"},
}

// place finds out where this process stands in its job. Under another launcher than ours each rank would take itself for a
// whole job and write over the others' files, so that is refused.
func (p *program) place() (collective.Place, error) {
	place, err := collective.PlaceFrom(p.getenv)
	if err != nil {
		return place, &usageError{err.Error()}
	}
	if place.Rendezvous != "" {
		return place, nil
	}
	for _, l := range otherLaunchers {
		if n := p.getenv(l.size); n != "" && n != "1" {
			return place, &usageError{fmt.Sprintf("%s started %s ranks (%s), which is not supported yet; start them with launch -n %s", l.name, n, l.size, n)}
		}
	}
	return place, nil
}

// watchLifeline ends this process as soon as launch is gone: the pipe whose other end launch holds then reads its end. It is
// the second line of defence; where the kernel delivers it, a signal comes first.
func watchLifeline(fd int) {
	if fd == 0 {
		return
	}
	pipe := os.NewFile(uintptr(fd), "lifeline")
	go func() {
		_, _ = pipe.Read(make([]byte, 1)) // returns only when the other end closes
		fmt.Fprintln(os.Stderr, "spmd: launch is gone")
		os.Exit(exitFailed)
	}()
}
