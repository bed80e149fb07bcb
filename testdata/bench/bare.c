/* What the kernel takes for a step at the least: namespaces, an overlay, /proc, a new root and a program, N times.
 *
 * usage: bare N ROOTFS FOLDER: runs /true of ROOTFS; the layers that it writes to are made in FOLDER. */
#define _GNU_SOURCE
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static void check(int failed, const char *what) {
    if (failed) {
        perror(what);
        _exit(2);
    }
}

static void step(const char *lower, const char *upper, const char *work, const char *root) {
    char options[4096];
    snprintf(options, sizeof options, "lowerdir=%s,upperdir=%s,workdir=%s", lower, upper, work);
    check(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL), "make mounts private");
    check(mount("overlay", root, "overlay", 0, options), "mount overlay");
    check(chdir(root), "chdir");
    check(mount("proc", "proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL), "mount proc");
    check(syscall(SYS_pivot_root, ".", "."), "pivot_root");
    check(umount2(".", MNT_DETACH), "unmount the old root");
    execl("/true", "true", NULL);
    check(1, "exec /true");
}

int main(int argc, char **argv) {
    check(argc != 4, "three arguments");
    for (int n = 0; n < atoi(argv[1]); n++) {
        char path[3][1024];
        const char *kinds[] = {"upper", "work", "root"};
        for (int kind = 0; kind < 3; kind++) {
            snprintf(path[kind], sizeof path[kind], "%s/%s-%d", argv[3], kinds[kind], n);
            check(mkdir(path[kind], 0755), "mkdir");
        }
        struct clone_args args = {
            .flags = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_VFORK,
            .exit_signal = SIGCHLD,
        };
        long child = syscall(SYS_clone3, &args, sizeof args);
        check(child < 0, "clone3");
        if (child == 0)
            step(argv[2], path[0], path[1], path[2]);
        int status;
        check(waitpid(child, &status, 0) < 0, "waitpid");
        if (status != 0)
            return 2;
    }
    return 0;
}
