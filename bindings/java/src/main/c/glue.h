/* What the functions that SWIG writes (native.c) need besides their typemaps: the library, exceptions, streams and hooks. */
#include <jni.h>
#include <stdlib.h>
#include <string.h>

#include "layout.h"
#include "open.h"
#include "think.h"
#include "think/dlpack.h"

#include "table.h"

static JavaVM *vm;
static jweak exception_class; /* weak, as a class that is held holds its loader, and with it this library */
static jmethodID exception_make, stream_class_write, stream_class_read, hooks_parallel_for, hooks_allocate, hooks_deallocate, hooks_log;

JNIEXPORT jint JNICALL JNI_OnLoad(JavaVM *loading, void *reserved) {
  JNIEnv *env;
  (void)reserved;
  vm = loading;
  if ((*vm)->GetEnv(vm, (void **)&env, JNI_VERSION_10) != JNI_OK) return JNI_ERR;
  jclass found = (*env)->FindClass(env, "org/libthink/ThinkException");
  if (!found || !(exception_class = (*env)->NewWeakGlobalRef(env, found))) return JNI_ERR;
  if (!(exception_make = (*env)->GetMethodID(env, found, "<init>", "(Ljava/lang/String;III[B)V"))) return JNI_ERR;
  if (!(found = (*env)->FindClass(env, "org/libthink/Stream"))) return JNI_ERR;
  if (!(stream_class_write = (*env)->GetMethodID(env, found, "write", "(Ljava/nio/ByteBuffer;)V"))) return JNI_ERR;
  if (!(stream_class_read = (*env)->GetMethodID(env, found, "read", "(Ljava/nio/ByteBuffer;)I"))) return JNI_ERR;
  if (!(found = (*env)->FindClass(env, "org/libthink/Hooks"))) return JNI_ERR;
  if (!(hooks_parallel_for = (*env)->GetMethodID(env, found, "parallelFor", "(JJJ)V"))) return JNI_ERR;
  if (!(hooks_allocate = (*env)->GetMethodID(env, found, "allocate", "(JJ)J"))) return JNI_ERR;
  if (!(hooks_deallocate = (*env)->GetMethodID(env, found, "deallocate", "(JJJ)V"))) return JNI_ERR;
  if (!(hooks_log = (*env)->GetMethodID(env, found, "log", "(I[B)V"))) return JNI_ERR;
  return JNI_VERSION_10;
}

JNIEXPORT void JNICALL JNI_OnUnload(JavaVM *unloading, void *reserved) {
  JNIEnv *env;
  (void)reserved;
  if ((*unloading)->GetEnv(unloading, (void **)&env, JNI_VERSION_10) == JNI_OK) (*env)->DeleteWeakGlobalRef(env, exception_class);
}

JNIEXPORT void JNICALL Java_org_libthink_NativeJNI_open(JNIEnv *env, jclass self, jstring path) {
  char text[4608];
  (void)self;
  const char *name = (*env)->GetStringUTFChars(env, path, NULL);
  if (!name) return;
  int failed = think_open(name, text, sizeof text);
  (*env)->ReleaseStringUTFChars(env, path, name);
  if (!failed) return;
  jclass error = (*env)->FindClass(env, "java/lang/UnsatisfiedLinkError");
  if (error) (*env)->ThrowNew(env, error, text);
}

/* Text as bytes of UTF-8, which Java's own strings in C are not quite. */
static jbyteArray text_bytes(JNIEnv *env, const char *text) {
  size_t length = strlen(text);
  jbyteArray bytes = (*env)->NewByteArray(env, (jsize)length);
  if (bytes) (*env)->SetByteArrayRegion(env, bytes, 0, (jsize)length, (const jbyte *)text);
  return bytes;
}

static void throw_error(JNIEnv *env, const char *function, think_status status, const think_error *error) {
  if ((*env)->ExceptionCheck(env)) return; /* a stream's own: it is why the call failed */
  jbyteArray message = text_bytes(env, error->message);
  jstring name = message ? (*env)->NewStringUTF(env, function) : NULL;
  jclass class = name ? (jclass)(*env)->NewLocalRef(env, exception_class) : NULL;
  if (!class) return;
  jobject made = (*env)->NewObject(env, class, exception_make, name, (jint)status, (jint)error->argument, (jint)error->native_code, message);
  if (made) (*env)->Throw(env, (jthrowable)made);
}

/* Copies of structs, one behind the other, from their addresses; `pointers`: as many addresses follow, and are put behind the structs. NULL for none; where
 * memory is missing an exception is pending. */
static void *gather(JNIEnv *env, jlongArray addresses, size_t size, int pointers, int32_t *count) {
  *count = addresses ? (*env)->GetArrayLength(env, addresses) / (pointers ? 2 : 1) : 0;
  if (*count == 0) return NULL;
  char *made = (char *)malloc((size_t)*count * (size + (pointers ? sizeof(void *) : 0)));
  jlong *from = made ? (*env)->GetLongArrayElements(env, addresses, NULL) : NULL;
  if (!from) {
    free(made);
    if (!(*env)->ExceptionCheck(env)) {
      jclass error = (*env)->FindClass(env, "java/lang/OutOfMemoryError");
      if (error) (*env)->ThrowNew(env, error, "libthink: no memory for a list of structs");
    }
    return NULL;
  }
  void **behind = (void **)(made + (size_t)*count * size);
  for (int32_t i = 0; i < *count; ++i) {
    memcpy(made + (size_t)i * size, (const void *)(intptr_t)from[i], size);
    if (pointers) behind[i] = (void *)(intptr_t)from[*count + i];
  }
  (*env)->ReleaseLongArrayElements(env, addresses, from, JNI_ABORT);
  return made;
}

JNIEXPORT jlong JNICALL Java_org_libthink_NativeJNI_address(JNIEnv *env, jclass self, jobject buffer) {
  (void)self;
  return (jlong)(intptr_t)(*env)->GetDirectBufferAddress(env, buffer);
}

JNIEXPORT jobject JNICALL Java_org_libthink_NativeJNI_buffer(JNIEnv *env, jclass self, jlong address, jlong bytes) {
  (void)self;
  return (*env)->NewDirectByteBuffer(env, (void *)(intptr_t)address, bytes);
}

/* ---- streams: `user` is the Stream, and the thread is that of the call ---- */

static JNIEnv *environment(void) {
  JNIEnv *env = NULL;
  (*vm)->GetEnv(vm, (void **)&env, JNI_VERSION_10);
  return env;
}

/* A Java buffer has at most 2^31 - 1 bytes. */
static jlong block(int64_t bytes) { return bytes < 1 << 30 ? (jlong)bytes : 1 << 30; }

static int32_t stream_write(void *user, const void *data, int64_t bytes) {
  JNIEnv *env = environment();
  for (jlong step; bytes > 0; data = (const char *)data + step, bytes -= step) {
    step = block(bytes);
    jobject buffer = (*env)->NewDirectByteBuffer(env, (void *)(intptr_t)data, step);
    if (!buffer) return -1;
    (*env)->CallVoidMethod(env, (jobject)user, stream_class_write, buffer);
    (*env)->DeleteLocalRef(env, buffer);
    if ((*env)->ExceptionCheck(env)) return -1;
  }
  return 0;
}

static int64_t stream_read(void *user, void *data, int64_t bytes) {
  JNIEnv *env = environment();
  int64_t filled = 0;
  while (filled < bytes) {
    jlong step = block(bytes - filled);
    jobject buffer = (*env)->NewDirectByteBuffer(env, (char *)data + filled, step);
    if (!buffer) return -1;
    jint got = (*env)->CallIntMethod(env, (jobject)user, stream_class_read, buffer);
    (*env)->DeleteLocalRef(env, buffer);
    if ((*env)->ExceptionCheck(env)) return -1;
    filled += got;
    if (got < step) break;
  }
  return filled;
}

/* ---- hooks: `user` is a global reference to a Hooks, and the thread one of Java's, which called the library ---- */

/* The methods throw nothing. Whatever Java could not keep to itself (no stack, no memory) ends here: none may be pending when the library goes on. */
static int failed(JNIEnv *env) {
  if (!(*env)->ExceptionCheck(env)) return 0;
  (*env)->ExceptionDescribe(env);
  (*env)->ExceptionClear(env);
  return 1;
}

static void hook_parallel_for(void *user, int64_t count, think_task task, void *argument) {
  JNIEnv *env = environment();
  (*env)->CallVoidMethod(env, (jobject)user, hooks_parallel_for, (jlong)count, (jlong)(intptr_t)task, (jlong)(intptr_t)argument);
  failed(env);
}

static void *hook_allocate(void *user, size_t bytes, size_t alignment) {
  JNIEnv *env = environment();
  jlong address = (*env)->CallLongMethod(env, (jobject)user, hooks_allocate, (jlong)bytes, (jlong)alignment);
  return failed(env) ? NULL : (void *)(intptr_t)address;
}

static void hook_deallocate(void *user, void *memory, size_t bytes, size_t alignment) {
  JNIEnv *env = environment();
  (*env)->CallVoidMethod(env, (jobject)user, hooks_deallocate, (jlong)(intptr_t)memory, (jlong)bytes, (jlong)alignment);
  failed(env);
}

static void hook_log(void *user, int32_t level, const char *message) {
  JNIEnv *env = environment();
  jbyteArray bytes = text_bytes(env, message);
  if (bytes) (*env)->CallVoidMethod(env, (jobject)user, hooks_log, (jint)level, bytes);
  (*env)->DeleteLocalRef(env, bytes);
  failed(env);
}

/* Puts the hooks of `which` (Hooks.java) into think_context_options; returns the reference, for unhook(). */
JNIEXPORT jlong JNICALL Java_org_libthink_NativeJNI_hook(JNIEnv *env, jclass self, jlong address, jobject hooks, jint which) {
  think_context_options *options = (think_context_options *)(intptr_t)address;
  (void)self;
  options->user = (*env)->NewGlobalRef(env, hooks);
  if (which & 1) options->parallel_for = hook_parallel_for;
  if (which & 2) options->allocate = hook_allocate, options->deallocate = hook_deallocate;
  if (which & 4) options->log = hook_log;
  return (jlong)(intptr_t)options->user;
}

JNIEXPORT void JNICALL Java_org_libthink_NativeJNI_unhook(JNIEnv *env, jclass self, jlong hooks) {
  (void)self;
  (*env)->DeleteGlobalRef(env, (jobject)(intptr_t)hooks);
}

JNIEXPORT void JNICALL Java_org_libthink_NativeJNI_task(JNIEnv *env, jclass self, jlong task, jlong argument, jlong index) {
  (void)env, (void)self;
  ((think_task)(intptr_t)task)((void *)(intptr_t)argument, index);
}
