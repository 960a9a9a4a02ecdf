/* What a guest must leave alone and Java cannot see; and a host of a device (tests/abi/device_host.c), for the thread that calls. */
#include "device_host.h"

#include <fenv.h>
#include <float.h>
#include <jni.h>
#include <locale.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

extern char **environ;

JNIEXPORT jstring JNICALL Java_org_libthink_tests_Guest_manners(JNIEnv *env, jclass self) {
  char text[8192], folder[4096];
  volatile float tiny = FLT_MIN;
  volatile double small = DBL_MIN;
  unsigned hash = 2166136261u, handlers = hash;
  (void)self;
  for (char **variable = environ; *variable; ++variable)
    for (const char *letter = *variable; *letter; ++letter) hash = (hash ^ (unsigned char)*letter) * 16777619u;
  for (int number = 1; number < 65; ++number) { /* 32 and 33 are the C library's own */
    struct sigaction action;
    if (number != 32 && number != 33 && sigaction(number, NULL, &action) == 0) handlers = (handlers ^ (unsigned)(uintptr_t)action.sa_handler) * 16777619u;
  }
  mode_t mask = umask(0);
  umask(mask);
  snprintf(text, sizeof text, "rounding %d, subnormals %d %d, exceptions trapped %d, locale %s, folder %s, umask %o, environment %u, handlers %u", fegetround(),
           tiny / 2 > 0, small / 2 > 0, fegetexcept(), setlocale(LC_ALL, NULL), getcwd(folder, sizeof folder) ? folder : "", (unsigned)mask, hash, handlers);
  return (*env)->NewStringUTF(env, text);
}

/* NULL, or why there is none. */
JNIEXPORT jstring JNICALL Java_org_libthink_tests_Guest_openDevice(JNIEnv *env, jclass self) {
  const char *missing = device_host_open();
  (void)self;
  return missing ? (*env)->NewStringUTF(env, missing) : NULL;
}

JNIEXPORT jlong JNICALL Java_org_libthink_tests_Guest_deviceMemory(JNIEnv *env, jclass self, jlong bytes) {
  (void)env;
  (void)self;
  return (jlong)(intptr_t)device_host_memory(bytes);
}

JNIEXPORT jboolean JNICALL Java_org_libthink_tests_Guest_deviceUnchanged(JNIEnv *env, jclass self) {
  (void)env;
  (void)self;
  return device_host_unchanged() ? JNI_TRUE : JNI_FALSE;
}

JNIEXPORT void JNICALL Java_org_libthink_tests_Guest_closeDevice(JNIEnv *env, jclass self) {
  (void)env;
  (void)self;
  device_host_close();
}
