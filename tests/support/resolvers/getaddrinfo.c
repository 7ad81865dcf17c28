/* Prints what getaddrinfo says of each name: its addresses in order of bytes, or the error by its name in netdb.h. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

static int compare(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

static const char *error_name(int code) {
    switch (code) {
    case EAI_NONAME: return "EAI_NONAME";
    case EAI_AGAIN: return "EAI_AGAIN";
    case EAI_FAIL: return "EAI_FAIL";
#ifdef EAI_NODATA
    case EAI_NODATA: return "EAI_NODATA";
#endif
    default: return gai_strerror(code);
    }
}

int main(int argc, char **argv) {
    for (int i = 1; i < argc; i++) {
        struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM}, *found = NULL;
        int code = getaddrinfo(argv[i], NULL, &hints, &found);
        printf("%s", argv[i]);
        if (code != 0) {
            printf(" %s\n", error_name(code));
            continue;
        }
        char *addresses[4096];
        int count = 0;
        for (struct addrinfo *at = found; at != NULL && count < 4096; at = at->ai_next) {
            char text[INET6_ADDRSTRLEN];
            const void *address = at->ai_family == AF_INET
                ? (const void *)&((struct sockaddr_in *)at->ai_addr)->sin_addr
                : (const void *)&((struct sockaddr_in6 *)at->ai_addr)->sin6_addr;
            inet_ntop(at->ai_family, address, text, sizeof text);
            addresses[count++] = strdup(text);
        }
        freeaddrinfo(found);
        qsort(addresses, count, sizeof *addresses, compare);
        for (int j = 0; j < count; j++)
            printf(" %s", addresses[j]);
        printf("\n");
    }
    return 0;
}
