// Package collective connects the ranks of a job: it forms the job, carries collective operations between groups of ranks
// over shared memory and TCP, and ends the job everywhere when one rank is lost.
//
// # Forming
//
// launch runs a Root and starts the ranks, each of which learns its Place from the environment and the job's secret from an
// inherited pipe. A rank Joins: it opens a control connection to the root, over which it says where it listens and what it
// is made of (its facts: version, kernel set, configuration). When all have joined and agree on the facts, each is told
// where the others listen. Two members of a group connect when an operation first sends between them. Every connection, to
// the root or between ranks, begins with a handshake that proves to both ends that the other knows the secret; whoever does
// not is logged and dropped, and the job goes on.
//
// # Operations
//
// A Group's operations run as work on a stream of the group's own: they wait for an event of the computation and return one,
// so that they overlap with it. A caller that would wait at once uses Group.Blocking, whose operations run on its own
// goroutine. Operations read and write the device's memory in place. For p members and n bytes (of the buffer,
// all parts together), q the largest power of two up to p, k = log2(q), and K = log2(p), rounded up:
//
//	operation       algorithm        steps               bytes sent by each member
//	all-reduce      direct           2, of p-1 messages  2 n (p-1)/p
//	                doubling         k                   n k
//	                halving          2k                  2 n (q-1)/q
//	                ring             2(p-1)              2 n (p-1)/p
//	                two-level        2 + those of H      2 n (L-1)/L inside the host, 2 (n/L) (H-1)/H to others
//	reduce-scatter  direct           1, of p-1 messages  n (p-1)/p
//	                halving          k                   n (q-1)/q
//	                ring             p-1                 n (p-1)/p
//	                two-level        H + 1               n (L-1)/L inside the host, (n/L) (H-1)/H to others
//	reduce          tree             k + segments - 1    n, the root none (it receives n k)
//	                halving          2k                  2 n (q-1)/q at most
//	                direct           2                   n, the root n (p-1)/p
//	all-gather      doubling         K                   n (p-1)/p
//	                direct           1, of p-1 messages  n (p-1)/p
//	                ring             p-1                 n (p-1)/p
//	                two-level        H + 1               as reduce-scatter
//	broadcast       tree             K + segments - 1    n for each child, n K at most
//	                ring             p - 2 + segments    n
//	                two-level        both levels' K      n for each child
//	scatter         direct           1, of p-1 messages  n (p-1)/p by the root
//	                tree             K                   n (p-1)/p by the root, n/2 at most by others
//	gather          direct           1                   n/p, the root none
//	                tree             K                   n/2 at most
//	all-to-all (-v) pairwise         p-1                 n (p-1)/p
//	send, receive                    1                   n
//	barrier         doubling         K                   0
//	host data       doubling         2K                  n (p-1)/p + 8(p-1)
//
// Where p is no power of two, all-reduce, reduce-scatter and reduce by doubling, halving and tree take two more steps and n
// more bytes for members that are beyond q or fold in one of those. L members on each of H hosts make two levels. Each
// message has a header of 44 bytes besides. Messages are cut into segments of 256 KiB, so that folding one overlaps with the
// transfer of the next.
//
// A cost model chooses the algorithm, unless Options.Algorithm does; Estimates returns what it expects. An algorithm is a
// few methods of team, written against link, which carries messages between two members; a transport is an implementation
// of link. An operation is one file.
//
// Sums have the same bits on all members, and for p = 1, 2, 4, 8, ... they continue one pairwise tree, whatever the algorithm
// and the hosts: see allreduce.go. Algorithms that cannot keep this order are used with Options.AnyOrder only.
//
// # Shared memory
//
// Ranks of one host share memory, unless Options.Backend says otherwise. World.Alloc makes symmetric memory: each rank's is
// a file without a name, sealed against resizing, which it hands to the others over a unix socket after the same handshake
// as over TCP, and which all of them map. A crash leaves nothing behind. A group whose members are all on one host does its
// operations in place, but for transfers and host data: each member stamps a slot in which it says what it calls, waits for the
// others' stamps, and then does a part, reading the others' buffers where they lie and writing results to where they belong,
// with no copy in between. It takes two words of each member that all see, one for small buffers, which go through the slots
// themselves, and the sums have the bits of the tree, see slots.go and inplace.go. Small buffers that are not symmetric are
// copied to where the others reach them; large ones travel as messages through rings in shared memory, with the algorithms
// above, see ring.go. Waiting is described in wait.go: a short spin while cores are free, then yielding, then sleep.
//
// On other hosts a Relay stands for the root: it holds the control connections of the ranks there, and relays form a tree, so
// that the root of a large job has few connections. Under another launcher than ours, Meet makes rank 0 host the root. With
// Options.TLS the connections between ranks are inside TLS 1.3, to which the handshake is bound.
//
// # Failure
//
// Every wait ends. The root decides the job's first failure, once: a rank that says why it aborts, a process that launch
// saw die, a control connection that ends without a goodbye, or one on which not even a heartbeat came for Options.Silence. It tells all ranks at once, and whatever waits in an
// operation ends with that cause, a *RankLostError. A data connection that breaks decides nothing by itself: its rank waits
// for the root's word, so that no victim is taken for the culprit. An operation that makes no progress for Options.Timeout
// makes the root ask its members where they stand; the *TimeoutError names those that have not arrived, with the stack of the
// goroutine that would have called it, or those that are in another operation. It is the same in
// shared memory, where a dead rank wakes nobody: the news of the root end the wait. Members also publish there which
// operation they are in, so that one which waits for a member in another operation sees that and names both.
package collective
