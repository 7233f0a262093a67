/* Errors of the disk, put between the server and the kernel. Loaded with LD_PRELOAD.
 *
 * FAULT_BATCH_FROM=BYTES   the write of a batch (pwritev2) at that offset of a file or beyond fails with EIO. The server makes
 *                          that call without libc, so that the kernel is told to refuse it.
 * FAULT_SYNC_ONCE=FILE     when that file is there, the next fdatasync of a file whose name ends with FAULT_SYNC_OF fails
 *                          with EIO, once: the file goes, and the next sync succeeds.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

__attribute__((constructor)) static void refuse_batches(void) {
    const char *from = getenv("FAULT_BATCH_FROM");
    if (from == NULL) {
        return;
    }
    /* Arguments are 64 bits; where they lie in memory the low half comes first on every machine this runs on. */
#define LOAD(field) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, field))
    struct sock_filter filter[] = {
        LOAD(nr),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_pwritev2, 0, 2),
        LOAD(args[3]),
        BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, (unsigned)atoi(from), 1, 0),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EIO),
    };
    struct sock_fprog program = {sizeof filter / sizeof *filter, filter};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0) {
        _exit(77);
    }
}

/* Whether the file behind a descriptor has a name that ends so. */
static int ends_with(int fd, const char *ending) {
    char link[64], name[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, name, sizeof name - 1);
    if (length < 0 || ending == NULL || (size_t)length < strlen(ending)) {
        return 0;
    }
    name[length] = 0;
    return strcmp(name + length - strlen(ending), ending) == 0;
}

int fdatasync(int fd) {
    const char *once = getenv("FAULT_SYNC_ONCE");
    if (once != NULL && ends_with(fd, getenv("FAULT_SYNC_OF")) && unlink(once) == 0) {
        errno = EIO;
        return -1;
    }
    return (int)syscall(SYS_fdatasync, fd);
}
