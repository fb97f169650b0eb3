// Package volumes makes what pods mount.
//
//	<data>/pods/<uid>/volumes/<name>/     emptyDir, configMap, secret, downwardAPI, projected
//	                 /subpaths/<c>/<n>    one mount of a part of a volume, pinned
//	                 /etc/                hosts, resolv.conf, hostname
//	                 /termination/        what containers say when they end
//
// Guarantees:
//   - Files appear all at once or not at all: a new set is written beside the
//     old one and a symlink is switched (..data), so a program that reads two
//     files reads both of one version.
//   - A subPath never leads out of its volume, whatever symlinks a container
//     has put there.
//   - Secrets and tokens are on tmpfs only.
//   - Remove leaves no mount behind and follows no symlink.
//
// It knows no API: contents come as bytes.
package volumes
