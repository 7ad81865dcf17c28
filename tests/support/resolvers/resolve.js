// Prints what Node says of each name: by getaddrinfo (`lookup`) or by c-ares (`resolve`), the first argument.
const dns = require('node:dns').promises;
const [how, ...names] = process.argv.slice(2);

async function ask(promise) {
    try {
        return await promise;
    } catch (error) {
        return error.code;
    }
}

(async () => {
    for (const name of names) {
        let said;
        if (how === 'lookup') {
            said = [await ask(dns.lookup(name, { all: true }).then(found => found.map(one => one.address)))];
        } else {
            // Both at once, as Happy Eyeballs does.
            said = await Promise.all([ask(dns.resolve4(name)), ask(dns.resolve6(name))]);
        }
        const addresses = said.filter(Array.isArray).flat().sort();
        const errors = [...new Set(said.filter(one => !Array.isArray(one)))];
        console.log([name, ...(addresses.length ? addresses : errors)].join(' '));
    }
})();
