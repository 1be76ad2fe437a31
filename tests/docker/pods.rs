//! Pods that CNI's plugins attach, as flannel's own plugin would have them.
