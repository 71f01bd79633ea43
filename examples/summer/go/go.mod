module example/summer

go 1.24

require distwasm v0.0.0

replace distwasm => ../../../guest/go
