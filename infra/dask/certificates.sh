#!/bin/sh
# One authority and one certificate for the Dask processes of one site: they believe only what this authority signed.
#   infra/dask/certificates.sh FOLDER [DAYS]
# Makes FOLDER/{ca.pem,cert.pem,key.pem}, key.pem readable by its owner only. Run it again to rotate; restart Dask then.
set -eu
umask 077
folder=${1:?folder to write to}
days=${2:-397}
mkdir -p "$folder"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days "$days" -subj "/CN=medgan Dask authority" \
  -keyout "$work/ca.key" -out "$work/ca.pem" 2>/dev/null
openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=medgan Dask" \
  -keyout "$work/key.pem" -out "$work/request.pem" 2>/dev/null
openssl x509 -req -in "$work/request.pem" -CA "$work/ca.pem" -CAkey "$work/ca.key" -CAcreateserial -days "$days" \
  -out "$work/cert.pem" 2>/dev/null
# The authority's key is not kept: nobody can sign another process into this site.
mv "$work/ca.pem" "$work/cert.pem" "$work/key.pem" "$folder/"
