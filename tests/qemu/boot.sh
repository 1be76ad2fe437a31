#!/bin/sh
# Runs tests on another kernel, in QEMU without KVM.
#
#   boot.sh KERNEL-TREE 'COMMANDS'
#
# For example, with the programs that `cargo xtask test` has built (BIN: copies, without the hash in
# their names):
#   apt-get download linux-image-6.1.0-56-cloud-amd64 && dpkg-deb -x linux-image-6.1*.deb k61
#   BIN=bin boot.sh k61 '/packet --test-threads=1; /netns --test-threads=1'
#   BIN=bin boot.sh k61 '/e2e --test-threads=1 --nocapture underlay::external_interface_on_a_vlan'
#   BIN=bin NICS=2 boot.sh k612 '/e2e --nocapture nic::'
#
# KERNEL-TREE: a Debian kernel package unpacked by `dpkg-deb -x`. COMMANDS run in a shell in the
# machine, whose / has the programs of $BIN (packet, netns, e2e, flannel-agent; they are stripped).
# NICS: how many NICs of virtio_net it has, all on one wire inside of QEMU; none by default.
# Needs: qemu-system-x86 cpio kmod busybox-static, and what the test rings need.
set -eu
tree=$(realpath "$1")
commands=$2
here=$(dirname "$(realpath "$0")")
bin=$(realpath "${BIN:?directory of the programs}")
work=${WORK:-$(mktemp -d)} # WORK: kept from run to run
release=$(basename "$(echo "$tree"/boot/vmlinuz-*)" | sed s/vmlinuz-//)
root=$work/root-$release

tools='etcd etcdctl ip tc bridge ethtool nft ss iperf3 ping bpftool nsenter setpriv timeout modprobe'
modules='veth bridge vxlan tun 8021q br_netfilter sch_ingress cls_bpf nf_tables nft_chain_nat nft_masq
nft_ct nft_compat nft_fib_inet nft_reject_inet nft_limit nft_log nf_conntrack_netlink xt_MASQUERADE
xt_comment xt_addrtype xt_conntrack xt_mark inet_diag tcp_diag netlink_diag unix_diag af_packet_diag
esp4 xfrm_user virtio_pci virtio_net'

copy() { mkdir -p "$root$(dirname "$2")"; cp -Lu "$1" "$root$2"; }

mkdir -p "$root/bin" "$root/sbin" "$root/proc" "$root/sys" "$root/dev" "$root/tmp" "$root/run" \
    "$root/root" "$root/etc"
echo 'root:x:0:0::/root:/bin/sh' > "$root/etc/passwd"
copy /bin/busybox /bin/busybox
# The shell of busybox takes its own ping before the one in PATH.
copy /bin/dash /bin/sh
for program in "$bin"/*; do
    copy "$program" "/$(basename "$program")"
    strip "$root/$(basename "$program")"
done
for tool in $tools; do copy "$(command -v "$tool")" "/sbin/$tool"; done
for file in "$root"/sbin/* "$bin"/*; do
    { ldd "$file" 2>/dev/null || true; } | grep -o '/[^ ]*' | while read -r lib; do copy "$lib" "$lib"; done
done
[ -e "$tree/lib/modules/$release/modules.dep.bin" ] || depmod -b "$tree" "$release"
for module in $modules; do
    { modprobe -d "$tree" -S "$release" --show-depends "$module" || echo "no module $module" >&2; } |
        sed -n 's/^insmod \([^ ]*\).*/\1/p'
done | sort -u | while read -r file; do copy "$file" "${file#"$tree"}"; done
for list in order builtin builtin.modinfo; do
    copy "$tree/lib/modules/$release/modules.$list" "/lib/modules/$release/modules.$list"
done
find "$root/lib/modules/$release" -name '*.xz' -exec xz -df {} +
depmod -b "$root" "$release"
cp "$here/init" "$root/init"
chmod +x "$root/init"
printf '%s\n' "$modules" > "$root/modules"
printf '%s\n' "$commands" > "$root/commands"
(cd "$root" && find . | cpio -o -H newc --quiet | gzip -1) > "$work/initrd-$release"
nics=
for number in $(seq "${NICS:-0}"); do
    nics="$nics -netdev hubport,id=port$number,hubid=0"
    nics="$nics -device virtio-net-pci,netdev=port$number,mac=02:00:00:00:00:0$number"
done
# The machine's clock counts instructions, so that limits in tests hold however slow this machine is.
exec nice qemu-system-x86_64 -cpu max -m 2048 -smp 1 -icount shift=1,sleep=off -nographic -no-reboot \
    -nic none $nics \
    -kernel "$tree/boot/vmlinuz-$release" -initrd "$work/initrd-$release" \
    -append "console=ttyS0 panic=1 quiet" < /dev/null
