/* A host that uses CUDA beside the library, for the guest tests of all languages: the calling thread has a context of the host's own current. C links it, the
 * others open it at run time (bindings/tools/guests.sh). */
#ifndef DEVICE_HOST_H
#define DEVICE_HOST_H

#ifdef __cplusplus
extern "C" {
#endif

#define DEVICE_HOST __attribute__((visibility("default")))

DEVICE_HOST const char *device_host_open(void);         /* NULL, or why there is no device */
DEVICE_HOST void *device_host_memory(long long bytes);  /* of the device, zeroed, where kernels of the library can use it; NULL: there is none */
DEVICE_HOST int device_host_unchanged(void);            /* has the thread the contexts current that it had after device_host_open()? */
DEVICE_HOST void device_host_close(void);               /* frees all that */

#ifdef __cplusplus
}
#endif
#endif
