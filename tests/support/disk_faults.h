// A disk that fails on demand. disk_faults.cpp is a shared library whose file calls take the place of libc's:
// linked to a test, or put into a program by LD_PRELOAD. The environment says what fails:
//
//   DISK_FAULTS_UNDER=FOLDER    only calls on files below it, or on itself, count
//   DISK_FAULTS_LOG=FILE        optional: each of them adds a line "RANK CALL PATH"
//   DISK_FAULTS="RANK CALL N HOW"   optional: in the process of this rank the N-th CALL (from 1) fails
//
// CALL: open (for writing), read (open for reading, also of folders), write, sync, rename, remove, make (a
// folder). HOW: ENOSPC, EIO, EACCES; short (half of a write); killed (before the call); torn (killed after
// half of a write).
#pragma once

namespace wuneng::tests {

// Reads the environment again and counts from 1; for a child process that was forked off a test.
void reload_disk_faults();

}  // namespace wuneng::tests
