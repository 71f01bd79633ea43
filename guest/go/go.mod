module distwasm

go 1.24
