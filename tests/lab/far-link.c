/* A link between two network namespaces that is long and loses some of what is sent.
 *
 *   far-link NAMESPACE DEVICE NAMESPACE DEVICE DELAY-MS JITTER-MS LOSS-PERCENT SEED
 *
 * Makes a device in each of two named namespaces and carries frames between them, both ways: each takes DELAY, give or
 * take up to JITTER, so that they overtake each other, and LOSS of a hundred vanish. Says `ready` and goes on until it is
 * ended; it is in the second namespace then. Not every kernel has its own emulator (netem). */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <poll.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

/* On their way at a time; what comes when there are more is lost, as in a router. */
#define FRAMES_MAX 4096
#define FRAME_BYTES_MAX 2048

struct frame {
  uint64_t due_us;
  int to;
  ssize_t bytes;
  char content[FRAME_BYTES_MAX];
};

/* Those under way, in no order. */
static struct frame frames[FRAMES_MAX];
static size_t count;
static uint64_t seed;

static void fail(const char *what) {
  fprintf(stderr, "%s: %s\n", what, strerror(errno));
  exit(1);
}

static uint64_t now_us(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

/* xorshift */
static uint64_t below(uint64_t end) {
  seed ^= seed << 13;
  seed ^= seed >> 7;
  seed ^= seed << 17;
  return end ? seed % end : 0;
}

/* A device in a namespace; the process stays in that. */
static int device(const char *namespace, const char *name) {
  char path[64];
  snprintf(path, sizeof path, "/var/run/netns/%s", namespace);
  int space = open(path, O_RDONLY | O_CLOEXEC);
  if (space < 0 || setns(space, CLONE_NEWNET) != 0) fail(namespace);
  close(space);
  int tap = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
  if (tap < 0) fail("/dev/net/tun");
  struct ifreq request = {.ifr_flags = IFF_TAP | IFF_NO_PI};
  strncpy(request.ifr_name, name, IFNAMSIZ - 1);
  if (ioctl(tap, TUNSETIFF, &request) != 0) fail(name);
  return tap;
}

static void take(int from, int to, uint64_t delay_us, uint64_t jitter_us, uint64_t loss_percent) {
  for (;;) {
    struct frame lost, *frame = count < FRAMES_MAX ? &frames[count] : &lost;
    frame->bytes = read(from, frame->content, sizeof frame->content);
    if (frame->bytes <= 0) return;
    if (frame == &lost || below(100) < loss_percent) continue;
    frame->to = to;
    frame->due_us = now_us() + delay_us - jitter_us + below(2 * jitter_us + 1);
    count++;
  }
}

/* Sends what is due; milliseconds until something else is, or -1. */
static int give(void) {
  int wait = -1;
  uint64_t now = now_us();
  for (size_t n = 0; n < count;) {
    struct frame *frame = &frames[n];
    if (frame->due_us <= now) {
      /* A device that is down takes nothing: then it is lost. */
      ssize_t sent = write(frame->to, frame->content, (size_t)frame->bytes);
      (void)sent;
      *frame = frames[--count];
      continue;
    }
    int left = (int)((frame->due_us - now + 999) / 1000);
    if (wait < 0 || left < wait) wait = left;
    n++;
  }
  return wait;
}

int main(int argc, char **argv) {
  if (argc != 9) {
    fprintf(stderr, "far-link NAMESPACE DEVICE NAMESPACE DEVICE DELAY-MS JITTER-MS LOSS-PERCENT SEED\n");
    return 2;
  }
  int a = device(argv[1], argv[2]), b = device(argv[3], argv[4]);
  uint64_t delay = strtoull(argv[5], NULL, 10) * 1000, jitter = strtoull(argv[6], NULL, 10) * 1000;
  uint64_t loss = strtoull(argv[7], NULL, 10);
  /* Zero would stay zero. */
  seed = strtoull(argv[8], NULL, 10) * 2 + 1;
  printf("ready\n");
  /* Whoever started it waits for these to close. */
  fclose(stdout);
  fclose(stderr);
  struct pollfd ends[] = {{.fd = a, .events = POLLIN}, {.fd = b, .events = POLLIN}};
  for (;;) {
    if (poll(ends, 2, give()) < 0 && errno != EINTR) fail("poll");
    take(a, b, delay, jitter, loss);
    take(b, a, delay, jitter, loss);
  }
}
