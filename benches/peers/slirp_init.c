// The first process of the guest that is measured beside ours: it loads the modules of a network card, gives the card the
// address that QEMU's slirp expects, and becomes the daemon.
#include <arpa/inet.h>
#include <fcntl.h>
#include <net/if.h>
#include <net/route.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <unistd.h>

static struct sockaddr address(const char *text) {
    struct sockaddr_in in = {.sin_family = AF_INET};
    struct sockaddr plain;
    inet_pton(AF_INET, text, &in.sin_addr);
    memcpy(&plain, &in, sizeof plain);
    return plain;
}

static void bring_up(int fd, const char *name) {
    struct ifreq request = {.ifr_flags = IFF_UP};
    strcpy(request.ifr_name, name);
    if (ioctl(fd, SIOCSIFFLAGS, &request)) perror(name);
}

int main(void) {
    mount("dev", "/dev", "devtmpfs", 0, "");
    for (int number = 0; number < 32; number++) {
        char path[64];
        snprintf(path, sizeof path, "/slirp/%02d.ko", number);
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd >= 0) {
            if (syscall(SYS_finit_module, fd, "", 0)) perror(path);
            close(fd);
        }
    }
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    struct ifreq card = {.ifr_addr = address("10.0.2.15")};
    strcpy(card.ifr_name, "eth0");
    // The card appears a moment after its driver.
    while (ioctl(fd, SIOCSIFADDR, &card)) usleep(1000);
    card.ifr_netmask = address("255.255.255.0");
    if (ioctl(fd, SIOCSIFNETMASK, &card)) perror("netmask");
    bring_up(fd, "lo");
    bring_up(fd, "eth0");
    struct rtentry route = {.rt_flags = RTF_UP | RTF_GATEWAY,
                            .rt_dst = address("0.0.0.0"),
                            .rt_genmask = address("0.0.0.0"),
                            .rt_gateway = address("10.0.2.2")};
    if (ioctl(fd, SIOCADDRT, &route)) perror("route");
    char port[48] = "0.0.0.0:7001=10.0.2.2:";
    int places = open("/slirp/port", O_RDONLY | O_CLOEXEC);
    if (places >= 0 && read(places, port + strlen(port), 6) <= 0) perror("port");
    execl("/usr/bin/ticker", "ticker", "--serve", "tcp:7000", "--forward", port, (char *)0);
    perror("ticker");
    return 1;
}
