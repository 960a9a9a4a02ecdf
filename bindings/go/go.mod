module libthink/think

go 1.19
