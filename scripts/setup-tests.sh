#!/bin/sh
# Fetches what only the tests need into .tools: Erlang/OTP, whose `supervisor` is the oracle of tests/oracle, strace, with
# which tests make system calls fail, nft, and the makings of container images, which it puts into .guest/images. Nothing is
# installed. A second run changes nothing. `setup-tests.sh IMAGE…` makes only these images: redis, nginx, postgres.
set -eu
cd "$(dirname "$0")/.."

me=setup-tests
. scripts/apt.sh

# Unpacks Debian packages into .tools/NAME. Arguments: the name, what to do by hand on another system, the packages.
fetch() {
    name=$1 by_hand=$2
    shift 2
    [ ! -d ".tools/$name" ] || return 0
    for tool in apt-get dpkg; do
        command -v "$tool" >/dev/null 2>&1 || die "no $tool: $by_hand"
    done
    say "downloading $*"
    part=.tools/$name.part
    rm -rf "$part"
    mkdir -p "$part/deb"
    download_packages "$part/deb" "$@"
    for deb in "$part"/deb/*.deb; do
        dpkg -x "$deb" "$part" || die "$deb could not be unpacked"
    done
    rm -rf "$part/deb"
    mv "$part" ".tools/$name"
}

if [ $# = 0 ]; then
fetch otp "put Erlang/OTP 25 or later where .tools/otp/usr/lib/erlang has its 'erts-*', 'lib' and 'bin'" erlang-base
command -v strace >/dev/null 2>&1 || fetch strace "install strace 6.1 or later" strace libunwind8
# The rules of network = "tap". `.tools/bin` is where the launcher looks first.
if ! command -v nft >/dev/null 2>&1 && [ ! -x /usr/sbin/nft ]; then
    fetch nft "install nftables" nftables libnftables1 libmnl0 libnftnl11 libjansson4 libgmp10 libedit2 libxtables12 libbsd0 libmd0 libtinfo6
    mkdir -p .tools/bin
    {
        echo '#!/bin/sh'
        echo "tree=$PWD/.tools/nft"
        echo 'LD_LIBRARY_PATH=$tree/usr/lib/x86_64-linux-gnu:$tree/lib/x86_64-linux-gnu exec "$tree/usr/sbin/nft" "$@"'
    } >.tools/bin/nft
    chmod 755 .tools/bin/nft
fi
set -- redis nginx postgres
fi

# Container images as people make them, of Debian's packages: `umoci` writes an OCI layout, `skopeo` copies it, and
# `docker-registry` serves it on loopback.
fetch oci "install skopeo, umoci and docker-registry, and put links to them into .tools/oci/usr/bin" \
    skopeo umoci docker-registry libgpgme11 libassuan0 libgpg-error0 libdevmapper1.02.1 libselinux1 libudev1 libpcre2-8-0

# The number of the recipes below. Images of another number are made again.
RECIPE=4
image=$PWD/.guest/images/work/layout
work=.guest/images/work

umoci() { "$PWD/.tools/oci/usr/bin/umoci" "$@"; }

# Returns whether the image of this name is still to be made, and prepares its folder then.
to_make() {
    [ "$(cat ".guest/images/$1.recipe" 2>/dev/null)" != "$RECIPE" ] || return 1
    say "making the image of $1"
    rm -rf "$work"
    mkdir -p "$work/base/bin" "$work/base/etc" "$work/base/tmp" "$work/upper/etc"
}

# Fills the lower layer: a shell with these commands, root, and a user of this name and number with this home directory.
base() {
    user=$1 number=$2 home=$3
    shift 3
    cp .tools/redis/bin/busybox "$work/base/bin/busybox"
    for tool in sh "$@"; do ln -s busybox "$work/base/bin/$tool"; done
    printf 'root:x:0:0:root:/root:/bin/sh\n%s:x:%s:%s::%s:/bin/sh\n' "$user" "$number" "$number" "$home" >"$work/base/etc/passwd"
    printf 'root:x:0:\n%s:x:%s:\n' "$user" "$number" >"$work/base/etc/group"
    chmod 1777 "$work/base/tmp"
    mkdir -p "$work/base$home"
}

# Copies files of .tools/NAME into the upper layer, and the libraries that the programs among them need.
take() {
    tree=$PWD/.tools/$1
    shift
    loader=lib/x86_64-linux-gnu/ld-linux-x86-64.so.2
    libraries=$tree/lib/x86_64-linux-gnu:$tree/usr/lib/x86_64-linux-gnu
    for file in "$@"; do
        mkdir -p "$work/upper/${file%/*}"
        cp -L "$tree/$file" "$work/upper/$file"
        case $file in */bin/* | */sbin/* | *.so) ;; *) continue ;; esac
        needed=$("$tree/$loader" --library-path "$libraries" --list "$tree/$file") || die "$file: $needed"
        ! echo "$needed" | grep 'not found' >&2 || die "$file lacks libraries: remove ${tree#"$PWD"/}, and try again"
        for library in $(echo "$needed" | sed -n "s#.*=> $tree/\([^ ]*\) .*#\1#p"); do
            [ ! -e "$work/upper/$library" ] || continue
            mkdir -p "$work/upper/${library%/*}"
            cp -L "$tree/$library" "$work/upper/$library"
        done
    done
    mkdir -p "$work/upper/lib64" "$work/upper/lib/x86_64-linux-gnu"
    cp -L "$tree/$loader" "$work/upper/lib64/ld-linux-x86-64.so.2"
}

# Writes both layers, in which all is root's but the home directory of the user, and the layout. Arguments: the name, the
# tag, the options of umoci.
finish() {
    name=$1 tag=$2
    shift 2
    mkdir -p "$work/upper/usr/bin"
    umoci init --layout "$image"
    umoci new --image "$image:$tag"
    for layer in base upper; do
        tar -C "$work/$layer" --owner=0 --group=0 --numeric-owner --sort=name --mtime=@1 --exclude=".$home" -cf "$work/$layer.tar" .
        [ ! -d "$work/$layer$home" ] ||
            tar -C "$work/$layer" --owner="$number" --group="$number" --numeric-owner --mtime=@1 -rf "$work/$layer.tar" ".$home"
        umoci raw add-layer --image "$image:$tag" "$work/$layer.tar"
    done
    umoci config --image "$image:$tag" --architecture amd64 --os linux --config.env PATH=/usr/sbin:/usr/bin:/bin "$@"
    rm -rf ".guest/images/$name" ".guest/images/$name.recipe"
    mv "$image" ".guest/images/$name"
    rm -rf "$work"
    echo "$RECIPE" >".guest/images/$name.recipe"
}

# redis:7, with a file of the lower layer that the upper one removes.
redis_image() {
    to_make redis || return 0
    base redis 999 /data cat ls id mount
    echo 'of the lower layer' >"$work/base/etc/removed"
    : >"$work/upper/etc/.wh.removed"
    take redis usr/bin/redis-server usr/bin/redis-cli
    finish redis 7 --config.entrypoint redis-server --config.cmd --appendonly --config.cmd no --config.env GREETING=hello \
        --config.user redis --config.workingdir /data --config.stopsignal SIGINT --config.exposedports 6379/tcp
}

# nginx:1, whose first process is root's and whose workers are www-data's. /etc/nginx/proxy.conf hands all requests on to
# http://api:8000.
nginx_image() {
    fetch nginx "put a root with nginx and its libraries into .tools/nginx" nginx libcrypt1 libpcre2-8-0 libssl3 zlib1g libc6
    to_make nginx || return 0
    base www-data 33 /var/www cat ls id
    take nginx usr/sbin/nginx
    mkdir -p "$work/upper/etc/nginx" "$work/upper/var/lib/nginx" "$work/upper/var/log/nginx"
    echo 'It works.' >"$work/base/var/www/index.html"
    common='user www-data; worker_processes 1; error_log stderr; pid /run/nginx.pid; events {}'
    echo "$common http { access_log off; server { listen 80; root /var/www; } }" >"$work/upper/etc/nginx/nginx.conf"
    echo "$common http { access_log off; server { listen 80; location / { proxy_pass http://api:8000; proxy_read_timeout 600s; } } }" \
        >"$work/upper/etc/nginx/proxy.conf"
    finish nginx 1 --config.entrypoint nginx --config.entrypoint -g --config.entrypoint 'daemon off;' \
        --config.stopsignal SIGQUIT --config.exposedports 80/tcp
}

# postgres:15, whose first start makes the cluster in /var/lib/postgresql, the place for a disk.
postgres_image() {
    fetch postgres "put a root with PostgreSQL 15, psql and their libraries into .tools/postgres" \
        postgresql-15 postgresql-client-15 libpq5 libicu72 libxml2 libldap-2.5-0 libsasl2-2 libgssapi-krb5-2 libkrb5-3 \
        libk5crypto3 libkrb5support0 libkeyutils1 libcom-err2 libpam0g libaudit1 libcap-ng0 libssl3 libsystemd0 libuuid1 \
        libselinux1 libpcre2-8-0 libzstd1 liblz4-1 zlib1g liblzma5 libcap2 libgcrypt20 libgpg-error0 libgnutls30 libp11-kit0 \
        libidn2-0 libunistring2 libtasn1-6 libnettle8 libhogweed6 libgmp10 libffi8 libc6 libgcc-s1 libstdc++6 libreadline8 \
        libtinfo6 libbsd0 libmd0 libedit2
    to_make postgres || return 0
    base postgres 70 /var/lib/postgresql cat ls id mv rm sync
    programs=usr/lib/postgresql/15
    take postgres "$programs/bin/postgres" "$programs/bin/initdb" "$programs/bin/psql" "$programs/bin/pg_isready" \
        "$programs/lib/plpgsql.so" "$programs/lib/dict_snowball.so"
    mkdir -p "$work/upper/usr/share" "$work/upper/usr/bin"
    cp -a .tools/postgres/usr/share/postgresql "$work/upper/usr/share/"
    rm -rf "$work/upper/usr/share/postgresql/15/man"
    mkdir -p "$work/upper/usr/share/zoneinfo"
    for program in postgres initdb psql pg_isready; do ln -s "../lib/postgresql/15/bin/$program" "$work/upper/usr/bin/$program"; done
    cat >"$work/upper/usr/bin/start-postgres" <<'EOS'
#!/bin/sh
# Makes the cluster at the first start, and takes its place only when it is whole. Then becomes the server.
set -eu
cluster=/var/lib/postgresql/cluster
if [ ! -d "$cluster" ]; then
    rm -rf "$cluster.part"
    initdb --pgdata "$cluster.part" --username postgres --auth trust --no-locale --encoding UTF8 --no-instructions --no-sync
    sync
    mv "$cluster.part" "$cluster"
fi
exec postgres -D "$cluster" -c unix_socket_directories=/tmp "$@"
EOS
    chmod 755 "$work/upper/usr/bin/start-postgres"
    finish postgres 15 --config.entrypoint start-postgres --config.user postgres --config.workingdir /var/lib/postgresql \
        --config.stopsignal SIGINT --config.exposedports 5432/tcp
}

# The shell of all images is that of these packages.
fetch redis "put a root with redis-server, redis-cli and busybox into .tools/redis" \
    redis-server redis-tools libatomic1 libjemalloc2 liblua5.1-0 liblzf1 libssl3 libsystemd0 lua-cjson lua-bitop \
    libhiredis0.14 libc6 libgcc-s1 libstdc++6 liblzma5 libzstd1 liblz4-1 libcap2 libgcrypt20 libgpg-error0 busybox-static
for wanted in "$@"; do
    case $wanted in
    redis) redis_image ;;
    nginx) nginx_image ;;
    postgres) postgres_image ;;
    *) die "there is no image $wanted: redis, nginx, postgres" ;;
    esac
done
