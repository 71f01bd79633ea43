# small: gofmt, from Go's own sources
with_go
if [ ! -f "$package/gofmt.wasm" ]; then
    GOOS=wasip1 GOARCH=wasm go build -C "$goroot/src/cmd/gofmt" -ldflags='-s -w' -o "$work/gofmt.wasm" .
    mv "$work/gofmt.wasm" "$package"
fi
cp "$goroot"/src/sort/*.go "$work/input"
printf 'package   main\nfunc main( ) {x:=1\n_ =x}\n' | input ugly.go
run "$package/gofmt.wasm"
by="the same one, natively"
answer() { "$goroot/bin/gofmt" <"$1"; }
expect
