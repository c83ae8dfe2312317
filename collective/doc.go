// Package collective connects the ranks of a job: it forms the job, carries collective operations between groups of ranks
// over shared memory and TCP, and ends the job everywhere when one rank is lost.
//
// # Forming
//
// launch runs a Root and starts the ranks, each of which learns its Place from the environment and the job's secret from an
// inherited pipe. A rank Joins: it opens a control connection to the root, over which it says where it listens and what it
// is made of (its facts: version, kernel set, configuration). When all have joined and agree on the facts, each is told
// where the others listen. NewGroup then connects the members of a group to one another. Every connection, to the root or
// between ranks, begins with a handshake that proves to both ends that the other knows the secret; whoever does not is
// logged and dropped, and the job goes on.
//
// # Operations
//
// A Group's operations run as work on a stream of the group's own: they wait for an event of the computation and return one,
// so that they overlap with it. A caller that would wait at once uses Group.Blocking, whose operations run on its own
// goroutine. Operations read and write the device's memory in place. For p members and n bytes:
//
//	operation    algorithm                                     steps         bytes sent by each member
//	all-reduce   vector halving, distance doubling             2 log2(p)     2 n (p-1)/p
//	  n <= 16 Ki recursive doubling                            log2(p)       n log2(p)
//	  p not 2^k  the rest folds in first, gets the sum last    + 2           + n for those concerned
//	all-gather   recursive doubling                            log2(p)       n (p-1)/p
//	  p not 2^k  ring                                          p - 1         n (p-1)/p
//	broadcast    binomial tree, segments passed on at once     log2(p) + segments - 1   n for each child, log2(p) at most
//	barrier      dissemination                                 log2(p)       0
//	gather       everyone to everyone (small host data)        1             p-1 times its part
//
// (log2 rounded up; each message has a header of 40 bytes besides.) An algorithm is one file, written against link, which
// carries messages between two members; a transport is an implementation of link.
//
// Sums have the same bits on all members, and for p = 1, 2, 4, 8, ... they continue one pairwise tree: see allreduce.go.
//
// # Shared memory
//
// Ranks of one host share memory, unless Options.Backend says otherwise. World.Alloc makes symmetric memory: each rank's is
// a file without a name, sealed against resizing, which it hands to the others over a unix socket after the same handshake
// as over TCP, and which all of them map. A crash leaves nothing behind. A group whose members are all on one host does
// all-reduce, all-gather, broadcast and barrier in place: the members arrive at a word, and then read one another's buffers
// where they lie and write results to where they belong, with no copy in between. It takes one or two changes of a word
// that all see, and the sums have the bits of the tree, see inplace.go. Buffers that are not symmetric are copied if they
// are small; if they are not, they travel as messages through rings in shared memory, with the algorithms above. Waiting is
// described in wait.go: a spin while cores are free, then yielding, then sleep.
//
// A group with members on several hosts runs over TCP.
//
// # Failure
//
// Every wait ends. The root decides the job's first failure, once: a rank that says why it aborts, a process that launch
// saw die, or a control connection that ends without a goodbye. It tells all ranks at once, and whatever waits in an
// operation ends with that cause, a *RankLostError. A data connection that breaks decides nothing by itself: its rank waits
// for the root's word, so that no victim is taken for the culprit. An operation that makes no progress for Options.Timeout
// makes the root ask all ranks where they stand; the *TimeoutError names those that have not arrived. It is the same in
// shared memory, where a dead rank wakes nobody: the news of the root end the wait. Members also publish there which
// operation they are in, so that one which waits for a member in another operation sees that and names both.
package collective
