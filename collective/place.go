package collective

import (
	"fmt"
	"strconv"
)

// A Place is where a process stands in its job, as launch tells it through the environment.
type Place struct {
	Rank, Size           int // in the job
	LocalRank, LocalSize int // on this host
	// Job names the job in handshakes and messages. It is no secret.
	Job string
	// Epoch counts the job's restarts, from 0. Ranks of different epochs do not talk to each other.
	Epoch int
	// Rendezvous is host:port of the job's root. Empty for a process started alone.
	Rendezvous string
	// Address is the IP address at which this rank listens for other ranks; empty: that from which it reaches the root.
	Address string
	// Ports are those of which this rank may listen at one.
	Ports PortRange
	// Cores is how many cores of its host this process is bound to; 0: it is not bound.
	Cores int
	// Launcher names the launcher that started this process, where it is not Lockstep's: "srun". See Meet.
	Launcher string
	// SecretFD is the descriptor from which the job's secret is read (see ReadSecret), LifelineFD one whose end of file
	// says that launch is gone. Both are 0 for a process started alone.
	SecretFD, LifelineFD int
}

// The environment variables that carry a Place.
const (
	envRank       = "LOCKSTEP_RANK"
	envSize       = "LOCKSTEP_WORLD_SIZE"
	envLocalRank  = "LOCKSTEP_LOCAL_RANK"
	envLocalSize  = "LOCKSTEP_LOCAL_SIZE"
	envJob        = "LOCKSTEP_JOB"
	envEpoch      = "LOCKSTEP_EPOCH"
	envRendezvous = "LOCKSTEP_RENDEZVOUS"
	envAddress    = "LOCKSTEP_ADDRESS"
	envPorts      = "LOCKSTEP_PORTS"
	envCores      = "LOCKSTEP_CORES"
	envSecretFD   = "LOCKSTEP_SECRET_FD"
	envLifelineFD = "LOCKSTEP_LIFELINE_FD"
)

// Environ returns the place as environment entries NAME=value.
func (p Place) Environ() []string {
	number := func(name string, n int) string { return name + "=" + strconv.Itoa(n) }
	return []string{
		number(envRank, p.Rank), number(envSize, p.Size), number(envLocalRank, p.LocalRank), number(envLocalSize, p.LocalSize),
		envJob + "=" + p.Job, envRendezvous + "=" + p.Rendezvous, envAddress + "=" + p.Address, envPorts + "=" + p.Ports.String(),
		number(envEpoch, p.Epoch), number(envCores, p.Cores), number(envSecretFD, p.SecretFD), number(envLifelineFD, p.LifelineFD),
	}
}

// PlaceFrom reads a place with getenv: launch's variables, else those of Open MPI's mpirun, MPICH's mpiexec, torchrun or srun.
// Without any it is a job of one rank.
func PlaceFrom(getenv func(string) string) (Place, error) {
	p := Place{Size: 1, LocalSize: 1, Job: "alone"}
	if getenv(envSize) == "" {
		f, found, err := foreignFrom(getenv)
		if err == nil && found {
			p, p.Launcher, p.Rendezvous = f.place, f.launcher, f.rendezvous
		}
		return p, err
	}
	p.Job, p.Rendezvous, p.Address = getenv(envJob), getenv(envRendezvous), getenv(envAddress)
	var err error
	if p.Ports, err = ParsePortRange(getenv(envPorts)); err != nil {
		return p, fmt.Errorf("the environment has %s=%q: %w; start ranks with launch", envPorts, getenv(envPorts), err)
	}
	for _, v := range []struct {
		name     string
		to       *int
		min, max int
	}{
		{envSize, &p.Size, 1, 1 << 20}, {envRank, &p.Rank, 0, 1 << 20}, {envLocalSize, &p.LocalSize, 1, 1 << 20},
		{envLocalRank, &p.LocalRank, 0, 1 << 20}, {envEpoch, &p.Epoch, 0, 1 << 30}, {envCores, &p.Cores, 0, 1 << 20}, {envSecretFD, &p.SecretFD, 3, 1 << 20}, {envLifelineFD, &p.LifelineFD, 3, 1 << 20},
	} {
		n, err := strconv.Atoi(getenv(v.name))
		if err != nil || n < v.min || n > v.max {
			return p, fmt.Errorf("the environment has %s=%q, expected a number from %d to %d; start ranks with launch", v.name, getenv(v.name), v.min, v.max)
		}
		*v.to = n
	}
	if p.Rank >= p.Size || p.LocalRank >= p.LocalSize || p.Rendezvous == "" {
		return p, fmt.Errorf("the environment's place is inconsistent: rank %d of %d, local rank %d of %d, rendezvous %q; start ranks with launch",
			p.Rank, p.Size, p.LocalRank, p.LocalSize, p.Rendezvous)
	}
	return p, nil
}
