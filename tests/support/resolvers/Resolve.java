import java.net.InetAddress;
import java.net.UnknownHostException;
import java.util.ArrayList;
import java.util.Collections;
import java.util.Hashtable;
import java.util.List;
import javax.naming.NameNotFoundException;
import javax.naming.NamingException;
import javax.naming.directory.Attribute;
import javax.naming.directory.InitialDirContext;

/** Prints what Java says of each name: by InetAddress (`inet`) or by its own resolver in JNDI (`jndi`), the first argument. */
class Resolve {
    public static void main(String[] arguments) {
        for (int i = 1; i < arguments.length; i++) {
            List<String> said = arguments[0].equals("inet") ? inet(arguments[i]) : jndi(arguments[i]);
            Collections.sort(said);
            System.out.println(arguments[i] + " " + String.join(" ", said));
        }
    }

    static List<String> inet(String name) {
        List<String> said = new ArrayList<>();
        try {
            for (InetAddress address : InetAddress.getAllByName(name)) {
                said.add(address.getHostAddress());
            }
        } catch (UnknownHostException error) {
            said.add("UnknownHostException");
        }
        return said;
    }

    static List<String> jndi(String name) {
        List<String> said = new ArrayList<>();
        Hashtable<String, String> settings = new Hashtable<>();
        settings.put("java.naming.factory.initial", "com.sun.jndi.dns.DnsContextFactory");
        settings.put("java.naming.provider.url", "dns://127.0.0.1");
        try {
            InitialDirContext context = new InitialDirContext(settings);
            Attribute addresses = context.getAttributes(name, new String[] {"A"}).get("A");
            for (int i = 0; addresses != null && i < addresses.size(); i++) {
                said.add((String) addresses.get(i));
            }
            if (addresses == null) {
                said.add("nothing");
            }
        } catch (NameNotFoundException error) {
            said.add("NameNotFoundException");
        } catch (NamingException error) {
            said.add(error.toString());
        }
        return said;
    }
}
