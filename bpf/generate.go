package bpf

//go:generate go tool bpf2go -target bpfel -type svc_key -type svc -type slot_key -type address -type backend_key service service.c -- -O2 -g -Wall -Werror -mcpu=v3
//go:generate sh -c "sha256sum service.c headers/kernel.h > service.sum"
