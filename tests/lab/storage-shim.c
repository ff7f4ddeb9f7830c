/* Loaded into a pool or a worker (LD_PRELOAD) that is to meet failing storage: counts what the process asks of regular
 * files, and at one of these requests does what the environment says.
 *
 *   STORAGE_SHIM_COUNTS  a file of at least a page, which is mapped: how often (struct counts)
 *   STORAGE_SHIM_AT      "sync N" or "write N": the N-th request of this kind, from 1
 *   STORAGE_SHIM_DO      kill-before, kill-after   ends the process there
 *                        cut-before, cut-after     cuts the power of the ext4 that the file lies on, then the same
 *                        eio                       this one request fails
 *                        enospc                    this one and all that follow fail
 *                        lie                       this one and all that follow succeed, and nothing is done: syncs, or
 *                                                  writes to files without a name, which have zeros there then
 *
 * A process is not told of in advance: nothing here is known to it. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

/* linux/ext4.h: _IOR('X', 125, __u32); nothing that is not on the disk gets there any more. */
#define EXT4_IOC_SHUTDOWN 0x8004587d
#define EXT4_NOLOGFLUSH 2

enum kind { SYNC, WRITE };
enum deed { NOTHING, KILL_BEFORE, KILL_AFTER, CUT_BEFORE, CUT_AFTER, FAIL, FULL, LIE };

/* No error number. */
#define NOT_DONE (-1)

struct counts {
  _Atomic uint64_t of[2];
  /* Requests at which something was done. */
  _Atomic uint64_t done;
  char path[256];
};

static struct counts *counts;
static enum kind at_kind;
static uint64_t at;
static enum deed deed;
/* When the power goes, no other thread hears any more how its request ended. */
static _Atomic int off;

__attribute__((constructor)) static void begin(void) {
  static const char *const deeds[] = {"", "kill-before", "kill-after", "cut-before", "cut-after", "eio", "enospc", "lie"};
  const char *path = getenv("STORAGE_SHIM_COUNTS"), *when = getenv("STORAGE_SHIM_AT"), *what = getenv("STORAGE_SHIM_DO");
  int file = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
  if (file < 0) return;
  void *map = mmap(NULL, sizeof *counts, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  close(file);
  if (map == MAP_FAILED) return;
  counts = map;
  char kind[8];
  if (!when || !what || sscanf(when, "%7s %lu", kind, &at) != 2) return;
  at_kind = strcmp(kind, "write") == 0 ? WRITE : SYNC;
  for (int n = KILL_BEFORE; n <= LIE; n++)
    if (strcmp(what, deeds[n]) == 0) deed = n;
}

static void end(int fd, int cut) {
  uint32_t flags = EXT4_NOLOGFLUSH;
  off = cut;
  if (cut) syscall(SYS_ioctl, fd, EXT4_IOC_SHUTDOWN, &flags);
  syscall(SYS_kill, getpid(), SIGKILL);
  for (;;) pause();
}

/* Counts a request; an error number if it is to fail, or 0, or that it is not to be done although it succeeds. */
static int before(enum kind kind, int fd, int *after) {
  struct stat file;
  *after = 0;
  /* What it says to people is not storage. */
  if (!counts || fd <= 2 || fstat(fd, &file) != 0 || !(S_ISREG(file.st_mode) || S_ISDIR(file.st_mode))) return 0;
  uint64_t n = ++counts->of[kind];
  if (deed == NOTHING || kind != at_kind || n < at || (n > at && deed != FULL && deed != LIE)) return 0;
  if (++counts->done == 1) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, counts->path, sizeof counts->path - 1);
    counts->path[length > 0 ? length : 0] = 0;
  }
  switch (deed) {
  case NOTHING: return 0;
  case KILL_BEFORE: end(fd, 0); return 0;
  case CUT_BEFORE: end(fd, 1); return 0;
  case KILL_AFTER:
  case CUT_AFTER: *after = 1; return 0;
  case FAIL: return EIO;
  case FULL: return ENOSPC;
  case LIE: return kind == SYNC || file.st_nlink == 0 ? NOT_DONE : 0;
  }
  return 0;
}

#define REQUEST(kind, fd, call, lie)                 \
  int after, error = before(kind, fd, &after);       \
  if (error == NOT_DONE) return lie;                 \
  if (error) return errno = error, -1;               \
  __typeof__(call) result = (call);                  \
  if (after) end(fd, deed == CUT_AFTER);             \
  while (off) pause();                               \
  return result

int fsync(int fd) { REQUEST(SYNC, fd, syscall(SYS_fsync, fd), 0); }
int fdatasync(int fd) { REQUEST(SYNC, fd, syscall(SYS_fdatasync, fd), 0); }
int syncfs(int fd) { REQUEST(SYNC, fd, syscall(SYS_syncfs, fd), 0); }
int sync_file_range(int fd, off_t from, off_t bytes, unsigned flags) {
  REQUEST(SYNC, fd, syscall(SYS_sync_file_range, fd, from, bytes, flags), 0);
}

/* What was to be written from here on are zeros. */
static ssize_t nothing(int fd, off_t to, size_t bytes) {
  return syscall(SYS_ftruncate, fd, to + bytes) == 0 ? (ssize_t)bytes : -1;
}

ssize_t write(int fd, const void *from, size_t bytes) {
  REQUEST(WRITE, fd, syscall(SYS_write, fd, from, bytes), nothing(fd, lseek(fd, bytes, SEEK_CUR) - bytes, bytes));
}
ssize_t pwrite(int fd, const void *from, size_t bytes, off_t to) {
  REQUEST(WRITE, fd, syscall(SYS_pwrite64, fd, from, bytes, to), nothing(fd, to, bytes));
}
ssize_t pwrite64(int fd, const void *from, size_t bytes, off_t to) {
  REQUEST(WRITE, fd, syscall(SYS_pwrite64, fd, from, bytes, to), nothing(fd, to, bytes));
}
ssize_t writev(int fd, const struct iovec *from, int count) {
  REQUEST(WRITE, fd, syscall(SYS_writev, fd, from, count), (errno = EINVAL, -1));
}
int ftruncate(int fd, off_t bytes) { REQUEST(WRITE, fd, syscall(SYS_ftruncate, fd, bytes), 0); }
int ftruncate64(int fd, off_t bytes) { REQUEST(WRITE, fd, syscall(SYS_ftruncate, fd, bytes), 0); }
int fallocate(int fd, int mode, off_t from, off_t bytes) {
  REQUEST(WRITE, fd, syscall(SYS_fallocate, fd, mode, from, bytes), 0);
}
int fallocate64(int fd, int mode, off_t from, off_t bytes) {
  REQUEST(WRITE, fd, syscall(SYS_fallocate, fd, mode, from, bytes), 0);
}
