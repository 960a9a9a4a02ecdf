/* Stands in for libcuda.so.1: as much of it as the core asks. */
#ifndef STAND_IN_DRIVER
#define STAND_IN_DRIVER 13000
#endif
#ifndef STAND_IN_START
#define STAND_IN_START 0
#endif
#ifndef STAND_IN_DEVICES
#define STAND_IN_DEVICES 0
#endif

#ifdef STAND_IN_FORKS
#include <sys/wait.h>
#include <unistd.h>
#endif

#define EXPORT __attribute__((visibility("default")))

#ifndef STAND_IN_EMPTY
EXPORT int cuDriverGetVersion(int *version) {
  *version = STAND_IN_DRIVER;
  return 0;
}
/* How many starts still go well; -1 = as many as are asked for. */
EXPORT int stand_in_starts = -1;
EXPORT int cuInit(unsigned flags) {
  (void)flags;
#ifdef STAND_IN_FORKS /* as the real one does to load its kernel module */
  {
    const pid_t child = fork();
    if (child == 0) _exit(0);
    waitpid(child, 0, 0);
  }
#endif
  if (stand_in_starts == 0) return 100;
  if (stand_in_starts > 0) --stand_in_starts;
  return STAND_IN_START;
}
EXPORT int cuDeviceGetCount(int *count) {
  *count = STAND_IN_DEVICES;
  return 0;
}
#else
EXPORT int stand_in_nothing = 1;
#endif
