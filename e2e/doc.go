// Package e2e holds the end-to-end tests: real processes of launch and spmd, built and started as a user does, on a model
// small enough that a run takes less than a second. They hold the promises that only whole processes can show:
//
//   - layouts_test.go: one configuration gives the same bits on any number of ranks and threads;
//   - interrupted_test.go: so it does after any kind of interruption;
//   - damage_test.go: damaged checkpoints are named and passed over;
//   - mistakes_test.go: a wrong configuration is refused whole, at once, and writes nothing;
//   - lost_test.go: a rank that dies or hangs ends the job within seconds, is named, and leaves nothing behind;
//   - hosts_test.go: the same on several hosts, which are network namespaces with an sshd each (needs root);
//   - launchers_test.go: the same under mpirun, mpiexec and srun, where they are installed;
//   - strangers_test.go: who does not know the job's secret is refused and disturbs nothing;
//   - commands_test.go: check, generate, evaluation, and the exit statuses.
//
// "The same bits" always means: the numbers of metrics.jsonl as they are written there, and every byte of the files in
// model/ or of a checkpoint's state.
//
// The package exports nothing. Its tests run on Linux: they find ranks, sockets and leftovers through /proc.
package e2e
