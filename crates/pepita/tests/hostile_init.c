// A hostile guest in the place of the agent, for a real microVM: it loads the modules of its image as the agent does, and
// then attacks the host over vsock. Each connection of the host gets another treatment, and beside that the guest opens
// connections to the host all the time, of which it completes none.
#include <dirent.h>
#include <fcntl.h>
#include <linux/vm_sockets.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define MODULES "/lib/pepita/modules"

// Loads all modules. One that needs another is loaded in a later round.
static void load_modules(void) {
    for (int round = 0; round < 8; round++) {
        DIR *modules = opendir(MODULES);
        for (struct dirent *entry; modules && (entry = readdir(modules));) {
            char path[512];
            snprintf(path, sizeof path, MODULES "/%s", entry->d_name);
            int fd = open(path, O_RDONLY | O_CLOEXEC);
            if (fd >= 0) {
                syscall(SYS_finit_module, fd, "", 0);
                close(fd);
            }
        }
        if (modules) closedir(modules);
    }
}

static void write_for_ever(int fd, const char *bytes, size_t length) {
    while (write(fd, bytes, length) > 0) {
    }
    for (;;) pause();
}

static void treat(int number, int fd) {
    static char bytes[65536];
    switch (number % 4) {
    case 0:  // Garbage, and nothing is read.
        for (size_t i = 0; i < sizeof bytes; i++) bytes[i] = (char)(i * 7919 >> 3);
        write_for_ever(fd, bytes, sizeof bytes);
        break;
    case 1:  // Neither a word nor an end.
        for (;;) pause();
    case 2:  // One line that never ends.
        memset(bytes, 'x', sizeof bytes);
        write_for_ever(fd, bytes, sizeof bytes);
        break;
    default:  // Half a hello, and half a connection.
        dprintf(fd, "{\"hello\":{\"generation\":1,");
        shutdown(fd, SHUT_WR);
        for (;;) pause();
    }
}

// The kernel keeps each socket for two seconds after an attempt that nobody has answered. The pause keeps their number, of 1.5
// KiB each, below what the guest has: one that runs out of memory ends by itself, and its monitor is tested no further.
static void connect_for_ever(void) {
    int open_ones[200];
    memset(open_ones, -1, sizeof open_ones);
    for (unsigned n = 0;; n++) {
        int *place = &open_ones[n % 200];
        if (*place >= 0) close(*place);
        *place = socket(AF_VSOCK, SOCK_STREAM | SOCK_NONBLOCK, 0);
        struct sockaddr_vm host = {.svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_HOST, .svm_port = 1 + n % 60000};
        connect(*place, (struct sockaddr *)&host, sizeof host);
        if (n % 4 == 0) usleep(1000);
    }
}

int main(void) {
    signal(SIGPIPE, SIG_IGN);
    signal(SIGCHLD, SIG_IGN);
    mkdir("/dev", 0755);
    mount("devtmpfs", "/dev", "devtmpfs", 0, NULL);
    load_modules();
    int console = -1;
    while (console < 0) {
        console = open("/dev/hvc0", O_WRONLY | O_NOCTTY);
        if (console < 0) usleep(10000);
    }
    dprintf(console, "hostile\n");
    if (fork() == 0) connect_for_ever();
    int listener = socket(AF_VSOCK, SOCK_STREAM, 0);
    struct sockaddr_vm own = {.svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_ANY, .svm_port = 5000};
    if (bind(listener, (struct sockaddr *)&own, sizeof own) || listen(listener, 4)) dprintf(console, "no vsock\n");
    for (int number = 0;; number++) {
        int fd = accept(listener, NULL, NULL);
        dprintf(console, "accepted %d\n", number);
        if (fd < 0) {
            usleep(100000);
        } else if (fork() == 0) {
            treat(number, fd);
        } else {
            close(fd);
        }
    }
}
